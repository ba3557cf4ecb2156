"""Tensors on disk: written atomically, read without running anything (safetensors only)."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .disk import brief, disk_error
from .errors import RunError

if TYPE_CHECKING:
    from torch import Tensor


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str], mode: int = 0o644
) -> None:
    """Replace a file in one go; mode: of the new file, from its first byte on.

    Raises RunError (disk full, read-only) and leaves the old file as it was.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save

    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, dict(about))
    waiting = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(waiting, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(waiting, path)
    except (OSError, SafetensorError) as error:
        try:
            waiting.unlink(missing_ok=True)
        except OSError:
            pass
        raise disk_error(error if isinstance(error, OSError) else OSError(str(error)), path.parent) from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors on the CPU, and the metadata. Raises RunError when the file is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})
    except (OSError, SafetensorError, ValueError) as error:
        raise RunError(f"{Path(path).name} is missing or damaged ({brief(error)}).") from error
