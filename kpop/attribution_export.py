"""Figures, tables and arrays of attention maps as files, written whole or not at all."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from .attention_recorder import BANDS
from .attribution import Attribution
from .attribution_measures import HeadNumbers
from .disk import write_bytes, write_text
from .errors import InputError


def to_image(figure: Figure, dpi: int = 160) -> Image.Image:
    """The figure as an RGB picture."""
    with Image.open(io.BytesIO(_drawn(figure, "png", dpi))) as image:
        return image.convert("RGB")


def save_figure(figure: Figure, path: str | Path, dpi: int = 160) -> Path:
    """Write PNG, SVG or PDF by the name's ending. Raises InputError, RunError."""
    path = Path(path)
    kind = path.suffix.lower().lstrip(".")
    if kind not in ("png", "svg", "pdf"):
        raise InputError(f"A figure is saved as .png, .svg or .pdf, not as {path.name!r}.")
    write_bytes(path, _drawn(figure, kind, dpi))
    return path


def save_table(numbers: Sequence[HeadNumbers], path: str | Path) -> Path:
    """Write a line a head as .csv, with a line of names above; empty where a number is not known."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(HeadNumbers)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in asdict(n).items()} for n in numbers
    )
    write_text(Path(path), text.getvalue())
    return Path(path)


def save_arrays(
    variants: Sequence[Attribution],
    path: str | Path,
    mask: torch.Tensor | None = None,
    rounded: bool = False,
) -> Path:
    """Write maps of one prompt and seed as .npz.

    "about": a JSON text, see `_about`. VARIANT/heads/WORD [heads, H, W] and VARIANT/hidden_prompt_mass: means
    over the selected layers and steps; VARIANT/layer/NAME [bands, heads, columns, h, w]: the sums of a
    selected layer over all bands, native size, columns as in "about", with VARIANT/steps_per_band;
    VARIANT/picture [height, width, 3]; mask bool [H, W]: the object in the original, where it is known.
    rounded: the sums come from attribution_file.
    """
    arrays = {"about": np.array(json.dumps(_about(variants, rounded), ensure_ascii=False))}
    if mask is not None:
        arrays["mask"] = mask.numpy()
    for maps in variants:
        name = maps.variant
        for word in maps.words:
            arrays[f"{name}/heads/{word}"] = maps[word].heads.numpy()
        arrays[f"{name}/hidden_prompt_mass"] = maps.hidden_prompt_mass.numpy()
        arrays[f"{name}/picture"] = np.asarray(maps.image.convert("RGB"))
        arrays[f"{name}/steps_per_band"] = np.asarray(maps.steps_per_band)
        for layer in maps.layers:
            arrays[f"{name}/layer/{layer}"] = maps.sums[layer].numpy()
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    write_bytes(Path(path), packed.getvalue())
    return Path(path)


def _about(variants: Sequence[Attribution], rounded: bool) -> dict:
    """What the arrays are of. Of a key its name and how it enters, never its numbers."""
    first = variants[0]
    ids = first.text.tokenizer(first.prompt, truncation=False, verbose=False)["input_ids"]
    tokens = first.text.tokenizer.convert_ids_to_tokens([*ids[: first.text.end], ids[-1]])
    try:
        story = json.loads(first.image.info.get("kpop", "{}"))
    except ValueError:
        story = {}
    story = story if isinstance(story, dict) else {}
    return {
        "prompt": first.prompt, "seed": first.seed, "words": list(first.words),
        "columns": [*tokens, "hidden prompt"], "layers": list(first.layers), "bands": list(first.bands),
        "bands_of_all": BANDS, "rounded": rounded, "model": story.get("model", ""),
        "model_hash": story.get("model_hash", ""), "variants": [maps.variant for maps in variants],
        "keys": {maps.variant: asdict(maps.key) for maps in variants if maps.key is not None},
    }  # fmt: skip


def _drawn(figure: Figure, kind: str, dpi: int) -> bytes:
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=dpi, facecolor=figure.get_facecolor(), metadata=undated)
    return buffer.getvalue()
