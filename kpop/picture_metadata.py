"""What a picture says of how it was made: the PNG text chunk that `drawing.draw` writes, read back.

A picture may come from anybody, so everything is checked: kind, size, length, types and ranges.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any

from PIL import Image

from .config import GenerationConfig
from .errors import InputError
from .runs import ID

MOST_BYTES = 4_000_000  # of the file
MOST_SIDE = 4096  # pixels
MOST_TEXT = 20_000  # characters of the chunk
VARIANTS = ("original", "sanitized", "recovered")
NO_STORY = "This picture does not say how it was made. Use a PNG that was saved from this page."


@dataclass(frozen=True)
class PictureMetadata:
    """What to ask for to draw a picture again. run, key: None for the original model's pictures."""

    prompt: str
    seed: int
    variant: str
    model: str
    model_hash: str
    run: str | None
    key: str | None
    config: GenerationConfig


def read_metadata(data: bytes) -> PictureMetadata:
    """The metadata of a PNG file's bytes; its pixels are not decoded. Raises InputError."""
    if not isinstance(data, bytes) or len(data) > MOST_BYTES:
        raise InputError(f"The picture is too large: at most {MOST_BYTES // 1_000_000} MB.")
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            width, height = image.size
            text = image.info.get("kpop")
    except Exception as error:  # Pillow raises many kinds on damaged or hostile files
        raise InputError("This is not a PNG picture that can be read.") from error
    if max(width, height) > MOST_SIDE:
        raise InputError(f"The picture is too large: at most {MOST_SIDE} pixels a side.")
    if not isinstance(text, str) or len(text) > MOST_TEXT:
        raise InputError(NO_STORY)
    try:
        told = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(NO_STORY) from error
    return _checked(told)


def _checked(told: Any) -> PictureMetadata:
    if not isinstance(told, dict) or not isinstance(told.get("config"), dict):
        raise InputError(NO_STORY)
    seed, run, variant = told.get("seed"), told.get("run"), told.get("variant")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise InputError("The picture's seed cannot be used: it is no whole number from 0 to 4294967295.")
    if variant not in VARIANTS:
        raise InputError(f"The picture's variant cannot be used: it is none of {', '.join(VARIANTS)}.")
    if run is not None and not (isinstance(run, str) and ID.fullmatch(run)):
        raise InputError("The picture's run cannot be used: it is not the id of a run.")
    return PictureMetadata(
        prompt=_line(told, "prompt", 400),
        seed=seed,
        variant=variant,
        model=_line(told, "model", 200),
        model_hash=_line(told, "model_hash", 200),
        run=run,
        key=None if told.get("key") is None else _line(told, "key", 200),
        config=GenerationConfig.from_dict(told["config"]),
    )


def _line(told: dict, name: str, most: int) -> str:
    value = told.get(name, "")
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        raise InputError(f"The picture's {name} cannot be used: it is no line of at most {most} characters.")
    return value
