"""Attention maps of a few variants in one small file, rounded, so that a page can show them at once.

A zip that numpy reads: "about" (JSON) and per variant its picture, the rounded sums of all layers one after
another, and their largest values. Rounded is the square root, to 127 steps of a layer's and token's largest
value: a map is off by less than a hundredth of its brightest point. save_arrays writes the exact numbers.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .attention_recorder import BANDS
from .attribution import Attribution
from .errors import KpopError, RunError
from .prompt_words import read_prompt

FORMAT = 1
STEPS = 127
MOST = 50_000_000  # numbers a variant may hold


def pack_maps(variants: Sequence[Attribution]) -> bytes:
    """The file of variants of one prompt, seed and model; the same maps give the same bytes."""
    first = variants[0]
    about = {
        "format": FORMAT, "prompt": first.prompt, "seed": first.seed, "words": first.words,
        "layers": {name: first.sums[name].shape for name in first.layers}, "size": first.size,
        "steps_per_band": first.steps_per_band, "variants": [maps.variant for maps in variants],
        "stories": [maps.image.info.get("kpop", "") for maps in variants],
    }  # fmt: skip
    arrays = {"about": np.array(json.dumps(about, ensure_ascii=False))}
    for maps in variants:
        pairs = [_rounded(maps.sums[name]) for name in first.layers]
        arrays[f"{maps.variant}/picture"] = np.asarray(maps.image.convert("RGB"))
        arrays[f"{maps.variant}/sums"] = np.concatenate([steps.ravel() for steps, _ in pairs])
        arrays[f"{maps.variant}/tops"] = np.stack([top for _, top in pairs])
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")  # dated 1980, whenever it is made
            entry.compress_type = zipfile.ZIP_LZMA
            with file.open(entry, "w") as place:
                np.lib.format.write_array(place, array, allow_pickle=False)
    return packed.getvalue()


def read_maps(path: Path, tokenizer: Any) -> list[Attribution]:
    """The variants of a file of pack_maps. Raises RunError when it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            about = json.loads(str(arrays["about"]))
            if about["format"] != FORMAT:
                raise ValueError(f"format {about['format']}")
            text = read_prompt(tokenizer, about["prompt"])
            names, words = tuple(about["layers"]), tuple(map(str, about["words"]))
            size, counts = (tuple(map(int, about[name])) for name in ("size", "steps_per_band"))
            shapes = [_shape(shape, text.end + 2) for shape in about["layers"].values()]
            found = []
            for variant, story in zip(about["variants"], about["stories"], strict=True):
                image = Image.fromarray(arrays[f"{variant}/picture"])
                image.info = {"kpop": story} if story else {}
                sums = _sums(arrays[f"{variant}/sums"], arrays[f"{variant}/tops"], shapes)
                layers = dict(zip(names, sums, strict=True))
                found.append(
                    Attribution(
                        about["prompt"], int(about["seed"]), str(variant), image, words, names, size, counts,
                        text, layers, tokenizer=tokenizer,
                    )
                )  # fmt: skip
            return found
    except (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile, KpopError) as error:
        raise RunError(f"{path.name} holds no maps that can be read. Watch the heads anew.") from error


def _rounded(sums: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """uint8 of the shape of `sums` [bands, heads, columns, h, w], and float32 [columns]."""
    top = sums.amax((0, 1, 3, 4)).clamp_min(1e-12)
    steps = (sums / top[:, None, None]).clamp_min(0).sqrt() * STEPS
    return steps.round().to(torch.uint8).numpy(), top.float().numpy()


def _sums(steps: np.ndarray, tops: np.ndarray, shapes: list[tuple[int, ...]]) -> list[torch.Tensor]:
    parts = np.split(steps, np.cumsum([np.prod(shape) for shape in shapes])[:-1])
    found = []
    for part, top, shape in zip(parts, tops, shapes, strict=True):
        whole = torch.from_numpy(part.astype(np.float32).reshape(shape)) / STEPS
        found.append(whole.square() * torch.from_numpy(top)[:, None, None])
    return found


def _shape(shape: Sequence[int], columns: int) -> tuple[int, ...]:
    bands, heads, given, height, width = map(int, shape)
    if bands != BANDS or given != columns or not 0 < heads * given * height * width <= MOST:
        raise ValueError("shape")
    return bands, heads, given, height, width
