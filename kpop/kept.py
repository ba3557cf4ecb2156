"""What is kept beside a run so that a page opens at once: a sheet of pictures, and where the heads look."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from . import run_texts
from .config import concept_name, is_style
from .disk import write_bytes, write_text
from .errors import RunError

if TYPE_CHECKING:
    from .attribution import Attribution
    from .runs import Run

OWN = "own"
FIRST_SEEDS = (0, 1, 2, 3)
MOST_MAPS = 300_000  # bytes; maps of larger models are drawn when they are asked for


@dataclass(frozen=True, eq=False)
class Sheet:
    """images[variant] and words[variant] have one entry a seed; words are "" without a judge."""

    run_id: str
    prompt: str
    seeds: tuple[int, ...]
    key: str
    images: dict[str, list[Image.Image]] = field(repr=False)
    words: dict[str, list[str]]


def phrase(word: str) -> str:
    """A word as a prompt: "a church", "an umbrella", a style on a fish; longer texts as they are."""
    word = " ".join(word.split())
    if is_style(word):
        return f"a fish, {word}"  # an object that no style is forgotten on
    if not word or len(word.split()) > 3 or word.split()[0].lower() in ("a", "an", "the"):
        return word
    return run_texts.phrase("a {}", word)


def first_prompt(run: Run) -> str:
    """What a run is asked first: its first concept."""
    return phrase(concept_name(run.config.concepts[0]))


def png_bytes(image: Image.Image) -> bytes:
    """PNG file of the picture with the text of its .info as PNG text chunks."""
    text = PngInfo()
    for key, value in image.info.items():
        if isinstance(key, str) and isinstance(value, str):
            text.add_itxt(key, value)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=text)
    return buffer.getvalue()


def keep(image: Image.Image, path: Path) -> None:
    """Write a PNG atomically; a cache that cannot be written is no reason to fail."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, png_bytes(image))
    except (OSError, RunError):
        return


def opened(path: Path) -> Image.Image | None:
    """A picture from disk with its text metadata, or None when it is missing or broken."""
    try:
        with Image.open(path) as image:
            image.load()
            info = {key: value for key, value in image.info.items() if isinstance(value, str)}
            picture = image.convert("RGB")
    except (OSError, ValueError, SyntaxError):
        return None
    picture.info = info
    return picture


def frames(strip: Image.Image) -> list[Image.Image]:
    """The square pictures that stand side by side in one sample file; the file itself if it is no strip."""
    side = strip.height
    if strip.width <= side or strip.width % side:
        return [strip]
    return [strip.crop((left, 0, left + side, side)) for left in range(0, strip.width, side)]


def folder_of(run: Run, prompt: str, seeds: Sequence[int], key: str = OWN, place: Path | None = None) -> Path:
    """Where the sheet of a question is kept: below `place`, or in the run folder."""
    return (place or run.path / "compare") / _name(run, prompt, seeds, key)


def write_sheet(drawn: Sheet, folder: Path) -> None:
    """Keep a sheet's pictures and words; a folder that cannot be written is no reason to fail."""
    for variant, images in drawn.images.items():
        for seed, image in zip(drawn.seeds, images, strict=True):
            keep(image, folder / f"{variant}_{seed}.png")
    try:
        write_text(folder / "words.json", json.dumps(drawn.words))
    except RunError:
        return


def read_sheet(folder: Path, run: Run, prompt: str, seeds: Sequence[int], key: str = OWN) -> Sheet | None:
    """The sheet of write_sheet, or None where it is not or not whole."""
    try:
        words = json.loads((folder / "words.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    variants = run.method.variants
    images = {variant: [opened(folder / f"{variant}_{seed}.png") for seed in seeds] for variant in variants}
    if any(image is None for row in images.values() for image in row) or not isinstance(words, dict):
        return None
    told = {variant: [str(word) for word in words.get(variant, [""] * len(seeds))] for variant in variants}
    return Sheet(run.id, prompt, tuple(seeds), key, images, told)


def keep_maps(variants: Sequence[Attribution], run: Run, key: str = OWN) -> bool:
    """Keep maps of all variants in the run folder, rounded; False where they would be too large."""
    from .attribution_file import pack_maps

    if sum(sums.numel() for maps in variants for sums in maps.sums.values()) > 8 * MOST_MAPS:
        return False
    packed = pack_maps(variants)
    if len(packed) > MOST_MAPS:
        return False
    path = _maps_path(run, variants[0].prompt, variants[0].seed, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, packed)
    return True


def kept_maps(run: Run, prompt: str, seed: int, key: str, tokenizer: Any) -> list[Attribution] | None:
    """The maps of keep_maps in the order of the run's variants, or None where there are none."""
    path = _maps_path(run, prompt, seed, key)
    if not path.is_file():
        return None
    from .attribution_file import read_maps
    from .attribution_key import key_use

    try:
        found = read_maps(path, tokenizer)
    except RunError:
        return None
    if tuple(maps.variant for maps in found) != run.method.variants:
        return None
    used = key_use(key, run.config.mechanism)
    return [replace(maps, key=used) if maps.variant == "recovered" else maps for maps in found]


def _maps_path(run: Run, prompt: str, seed: int, key: str) -> Path:
    return run.path / "attribution" / f"{_name(run, prompt, [seed], key)}.npz"


def _name(run: Run, prompt: str, seeds: Sequence[int], key: str) -> str:
    # The step is part of the name: a resumed run has other weights, so what is older no longer counts.
    told = json.dumps([prompt, list(seeds), key, run.status.step])
    return hashlib.sha256(told.encode()).hexdigest()[:16]
