"""Pictures that the page shows before it has drawn any: of the embedded model, shipped beside it.

They stand under the hash of the weights that drew them, so other weights never show them.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from .kept import keep, opened, phrase
from .presets import list_presets

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

SHIPPED = Path(__file__).resolve().parent.parent / "assets" / "pictures"
ALONE = 6  # seeds of a concept that a preset erases alone; of every other word one
TOGETHER = 24  # drawn at once


def cache_dir() -> Path:
    """Where drawn pictures are kept: KPOP_CACHE, the user's cache folder, or else a temporary one."""
    import platformdirs

    folder = Path(os.environ.get("KPOP_CACHE") or platformdirs.user_cache_dir("kpop-studio"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.gettempdir()) / "kpop-studio-cache"
    return folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir()) / "kpop-studio-cache"


def picture_path(folder: Path, model_hash: str, prompt: str, seed: int) -> Path:
    """Where a base model's picture of a prompt and a seed stands below a folder."""
    name = hashlib.sha256(f"{prompt}\n{seed}".encode()).hexdigest()[:24]
    return folder / model_hash[:16] / f"{name}.png"


def first_picture(cache: Path, model_hash: str, prompt: str, seed: int) -> Image.Image | None:
    """A picture drawn before, here or by whoever shipped the model; None where there is none."""
    found = (opened(picture_path(folder, model_hash, prompt, seed)) for folder in (cache, SHIPPED))
    return next((image for image in found if image is not None), None)


def first_asks() -> list[tuple[str, int]]:
    """(prompt, seed) of what the first step shows: every word and style of the embedded model, and more
    seeds of what a preset erases alone.
    """
    from .config import concept_name
    from .emoji.world import STYLES, THINGS

    offered = [preset for preset in list_presets() if preset.model == "emoji"]
    named = [concept_name(c) for preset in offered for c in (*preset.concepts, *preset.retain)]
    words = dict.fromkeys(
        [*(thing.word for thing in THINGS), *(f"{style} style" for style in STYLES), *named]
    )
    found = {(phrase(word), 0): None for word in words}
    for preset in offered:
        if len(preset.concepts) == 1:
            prompt = phrase(concept_name(preset.concepts[0]))
            found |= {(prompt, seed): None for seed in range(ALONE)}
    return list(found)


def draw_first(pipe: StableDiffusionPipeline, folder: Path = SHIPPED) -> int:
    """Draw what is missing of `first_asks` into a folder; returns how many pictures it then holds."""
    from . import models
    from .config import GenerationConfig
    from .drawing import Row, draw

    digest = models.model_hash(pipe)
    paths = {ask: picture_path(folder, digest, *ask) for ask in first_asks()}
    left = [ask for ask, path in paths.items() if opened(path) is None]
    for start in range(0, len(left), TOGETHER):
        part = left[start : start + TOGETHER]
        rows = [Row(prompt, seed, "original", None) for prompt, seed in part]
        images = draw(pipe, rows, None, None, GenerationConfig().resolved("emoji"), None, None)
        for ask, image in zip(part, images, strict=True):
            keep(image, paths[ask])
    return sum(path.is_file() for path in paths.values())
