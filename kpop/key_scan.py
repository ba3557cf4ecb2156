"""Looks for pieces of a hidden prompt in files, in any usual number format.

Files are read as plain bytes, so it does not matter what kind of file holds the values or under which name.
Found: runs of 15 or more values of the key that stay neighbours along its tokens or its width, as float16,
bfloat16, float32 or float64 (also rounded to a shorter format and written in a longer one). Not found: values
that were scaled, permuted one by one, compressed or encrypted; so only kinds of files that a release needs
may be in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .errors import RunError
from .key_sealing import check_open
from .tensor_files import parse_tensors

if TYPE_CHECKING:
    from .runs import Run

WINDOW = 8  # values compared at once
CHANGES = 5  # of the 7 steps between them that must change the value, or the window says too little
KINDS = (".safetensors", ".json", ".txt", ".md")
_CHUNK = 1 << 22  # bytes read at once
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_WEIGHTS = np.random.default_rng(0).integers(1, 2**63, WINDOW, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_TABLE_BITS = 24


@dataclass(frozen=True)
class Prints:
    """What files are compared with: hashes of the key's windows, by bytes a value."""

    hashes: dict[int, np.ndarray]  # sorted
    tables: dict[int, np.ndarray]  # bool [2^24]: whether a hash starts with these bits


def secret_tensors(run: Run) -> list[Tensor]:
    """Every tensor of the run's keys, earlier keys and prompt checkpoint; none of a method without a key.

    Raises RunError where a key is sealed, damaged or not there.
    """
    check_open(run)
    if run.unlocked is not None:
        files = {name: data for name, data in run.unlocked.items() if name.endswith(".safetensors")}
    elif run.secret_dir.is_dir():
        files = {path.name: path.read_bytes() for path in sorted(run.secret_dir.glob("*.safetensors"))}
    else:
        files = {}
    missing = [name for name in _key_names(run) if name not in files]
    if missing:
        raise RunError(
            f"The key {missing[0]} of run {run.id} is not in its secret folder, so nothing can be searched "
            "for it. Put it back, or train the run again."
        )
    return [tensor for name, data in files.items() for tensor in parse_tensors(data, name)[0].values()]


def _key_names(run: Run) -> list[str]:
    """The key files that a run with weights must have."""
    if not run.method.has_key:
        return []
    return list(dict.fromkeys(run.key_path(concept).name for concept in run.config.concepts))


def fingerprints(tensors: Iterable[Tensor]) -> Prints:
    """What `find_key` compares files with."""
    found: dict[int, list[np.ndarray]] = {2: [], 4: [], 8: []}
    for tensor in tensors:
        if not tensor.is_floating_point() or tensor.numel() < WINDOW:
            continue
        table = tensor.detach().cpu().reshape(-1, tensor.shape[-1])
        for order in (table, table.T) if min(table.shape) > 1 else (table,):
            exact = order.float().flatten()
            short = [exact.half(), exact.bfloat16()]
            found[2] += [_windows(value.view(torch.int16).numpy()) for value in short]
            for value in (exact, *(one.float() for one in short)):
                found[4].append(_windows(value.numpy()))
                found[8].append(_windows(value.double().numpy()))
    hashes = {width: np.unique(np.concatenate(parts)) for width, parts in found.items() if parts}
    hashes = {width: values for width, values in hashes.items() if len(values)}
    tables = {width: np.zeros(1 << _TABLE_BITS, bool) for width in hashes}
    for width, values in hashes.items():
        tables[width][_start(values)] = True
    return Prints(hashes, tables)


def find_key(folder: Path, prints: Prints, shifted: bool = False) -> list[Path]:
    """Files below `folder` that hold a piece of the key. OSError where one cannot be read.

    shifted: look into safetensors files at every byte too, as into all others; five times as long.
    """
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and _holds(path, prints, shifted)]


def check_release(folder: Path, run: Run, shifted: bool = True) -> None:
    """Raise RunError where a file of a release is of a kind it does not need, or holds a piece of the key.

    shifted: as in `find_key`; a release that was written just now needs it not.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or (path.is_file() and path.suffix not in KINDS):
            raise RunError(
                f"{path.name} does not belong into a release, which holds {', '.join(KINDS)} only."
            )
    found = find_key(folder, fingerprints(secret_tensors(run)), shifted)
    if found:
        raise RunError(f"The hidden prompt of run {run.id} is in {found[0].name}: this must not be released.")


def _holds(path: Path, prints: Prints, shifted: bool) -> bool:
    # In a safetensors file of the usual library values lie at multiples of their size; elsewhere anywhere.
    aligned = path.suffix == ".safetensors" and not shifted
    for width, hashes in prints.hashes.items():
        for shift in range(1 if aligned else width):
            for rows in _rows(path, width, shift):
                found = _hashed(rows)
                likely = found[prints.tables[width][_start(found)]]
                at = np.searchsorted(hashes, likely)
                if (hashes[np.minimum(at, len(hashes) - 1)] == likely).any():
                    return True
    return False


def _rows(path: Path, width: int, shift: int) -> Iterator[np.ndarray]:
    """The file's bytes from `shift` on, a window of WINDOW values a row: uint64 [n, width]."""
    size = width * WINDOW
    with open(path, "rb") as file:
        file.seek(shift)
        while data := file.read(_CHUNK):
            n = len(data) // size
            yield np.frombuffer(data, "<u8", n * width).reshape(n, width)


def _windows(values: np.ndarray) -> np.ndarray:
    """Hashes of all windows of a row of values that say enough."""
    if len(values) < WINDOW:
        return np.zeros(0, np.uint64)
    changes = np.concatenate([[0], np.cumsum(values[1:] != values[:-1])])
    enough = changes[WINDOW - 1 :] - changes[: len(changes) - WINDOW + 1] >= CHANGES
    views = np.lib.stride_tricks.sliding_window_view(values, WINDOW)[enough]
    return _hashed(np.ascontiguousarray(views).view("<u8"))


def _hashed(rows: np.ndarray) -> np.ndarray:
    """uint64 [n] of uint64 [n, width]."""
    found = np.zeros(len(rows), np.uint64)
    for column, weight in zip(rows.T, _WEIGHTS, strict=False):
        mixed = (column ^ (column >> np.uint64(30))) * _MIX
        mixed ^= mixed >> np.uint64(27)
        found += mixed * weight
    return found


def _start(hashes: np.ndarray) -> np.ndarray:
    return hashes >> np.uint64(64 - _TABLE_BITS)
