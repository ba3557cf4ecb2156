"""Figures, tables and arrays of attention maps as files, written whole or not at all."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

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


def save_arrays(variants: Sequence[Attribution], path: str | Path) -> Path:
    """Write every map as .npz: VARIANT/heads/WORD [heads, H, W], VARIANT/hidden_prompt_mass, VARIANT/picture,
    and the native sums VARIANT/layer/NAME [bands, heads, columns, h, w] with VARIANT/steps_per_band.
    """
    arrays: dict[str, np.ndarray] = {}
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


def _drawn(figure: Figure, kind: str, dpi: int) -> bytes:
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=dpi, facecolor=figure.get_facecolor(), metadata=undated)
    return buffer.getvalue()
