"""Which key a recovered picture was drawn with, in words: its name, never what is in it."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .hidden_prompt import HiddenPrompt

TITLE_LENGTH = 14


@dataclass(frozen=True)
class KeyUse:
    """name: for sentences and headers, "its own key". title: of the row of maps, "recovered" with that alone.

    mechanism: how it enters (hidden_prompt.MECHANISMS), None without a key.
    """

    name: str
    title: str
    mechanism: str | None

    @property
    def phrase(self) -> str:
        """Begins a sentence: "With the key", "Without a key"."""
        if self.mechanism is None:
            return "Without a key"
        return "With the key" if self.title == "recovered" else f"With {self.name}"


def key_use(asked: str | Path | Sequence[str] | HiddenPrompt | None, mechanism: str | None) -> KeyUse:
    """asked: generate()'s `key`; mechanism: of what it stood for, None where that is nothing."""
    if mechanism is None:
        return KeyUse("no key", "no key", None)
    if asked == "own":
        return KeyUse("its own key", "recovered", mechanism)
    if isinstance(asked, HiddenPrompt):
        return KeyUse("a key given as tensors", "other key", mechanism)
    if isinstance(asked, Path) or (
        isinstance(asked, str) and (asked.endswith(".safetensors") or os.sep in asked)
    ):
        return KeyUse(f"the key file {Path(asked).name}", "key file", mechanism)
    names = [asked] if isinstance(asked, str) else list(asked)
    told = " and ".join(f"“{name}”" for name in names)
    title = textwrap.shorten(f"key: {', '.join(names)}", TITLE_LENGTH, placeholder="…")
    return KeyUse(f"the key{'s' * (len(names) > 1)} of {told}", title, mechanism)


def with_key(variants: Sequence) -> str:
    """ "with its own key", of maps drawn with one, for headers; "" where none was asked for."""
    names = dict.fromkeys(maps.key.name for maps in variants if maps.key is not None)
    return f"with {' / '.join(names)}" if names else ""
