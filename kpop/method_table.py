"""The erasing methods known by name, and what each leaves behind; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class MethodFacts:
    """What the rest of the program must know of a method; its losses are in methods/<name>.py.

    has_key: it trains a hidden prompt, so there is a recovered variant. stepwise: it descends step by step,
    with checkpoints; else it is done at once. has_weights: it leaves theta'.
    """

    title: str
    about: str
    has_key: bool = False
    stepwise: bool = True
    has_weights: bool = True

    @property
    def variants(self) -> tuple[str, ...]:
        """What can be drawn of a run: original, sanitized, and with a key recovered."""
        return ("original", "sanitized", "recovered") if self.has_key else ("original", "sanitized")


METHODS: Mapping[str, MethodFacts] = MappingProxyType(
    {
        "kpop": MethodFacts("KPOP", "hides the concept in a key", has_key=True),
        "esd": MethodFacts("ESD", "aims past the neutral text"),
        "uce": MethodFacts("UCE", "solves for keys and values in closed form", stepwise=False),
        "ca": MethodFacts("CA", "draws the concept as its anchor, without data"),
        "sld": MethodFacts("SLD", "steers as it draws, trains nothing", stepwise=False, has_weights=False),
    }
)
