"""Tensors on disk: written atomically, read without running anything (safetensors only)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .disk import brief, replacing_file
from .errors import RunError

if TYPE_CHECKING:
    from torch import Tensor


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str], mode: int = 0o644
) -> None:
    """Replace a file in one go; mode: of the new file, which nobody else can read before it is there.

    Straight to the disk: checkpoints and releases are too large to hold twice. Raises RunError (disk full,
    read-only) and leaves the old file as it was.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with replacing_file(path, mode) as place:
        try:
            kept = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
            save_file(kept, place, metadata=dict(about))
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else None, str(error)) from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors on the CPU, and the metadata. Raises RunError when the file is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})
    except (OSError, SafetensorError, ValueError) as error:
        raise RunError(f"{Path(path).name} is missing or damaged ({brief(error)}).") from error


def parse_tensors(data: bytes, name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """read_tensors of a file's bytes; name: what it is called. Raises RunError when they are damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        about = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
        return load(data), dict(about)
    except (SafetensorError, ValueError, AttributeError) as error:
        raise RunError(f"{name} is damaged ({brief(error)}).") from error
