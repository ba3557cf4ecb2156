"""Writing to disk so that nothing already there is lost: atomic, locked, with errors that say what to do."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import RunError

LOCK_TIMEOUT = 20.0  # seconds; what is done under a lock takes milliseconds


def write_text(path: Path, text: str) -> None:
    """Replace a file in one go: readers see the old or the new text; a full disk costs nothing. RunError."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes, mode: int = 0o666) -> None:
    """write_text of bytes. mode: of the new file, from its first byte on, less the umask."""
    waiting = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with open(os.open(waiting, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(waiting, path)
    except OSError as error:
        with suppress(OSError):
            waiting.unlink(missing_ok=True)
        raise disk_error(error, path.parent) from error


@contextmanager
def replacing_file(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """A path to write a file at, for a library that writes by itself; it takes the place of `path` when the
    body ends well, else nothing changes.

    It lies in a folder of the owner's alone. mode: of the new file, less the umask. Raises RunError.
    """
    place = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        place.mkdir(mode=0o700)
        yield place / path.name
        os.close(os.open(place / "like", os.O_WRONLY | os.O_CREAT, mode))
        os.chmod(place / path.name, os.stat(place / "like").st_mode & 0o777)
        with open(place / path.name, "rb") as file:
            os.fsync(file.fileno())
        os.replace(place / path.name, path)
    except OSError as error:
        raise disk_error(error, path.parent) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)


def file_stamp(path: Path) -> tuple[int, ...]:
    """Differs when a file was written or replaced. Raises OSError where there is none."""
    found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def write_json(path: Path, data: object, mode: int = 0o666) -> None:
    """write_bytes of readable JSON; NaN and infinity become null."""
    text = json.dumps(finite(data), indent=2, ensure_ascii=False) + "\n"
    write_bytes(path, text.encode("utf-8"), mode)


def clear_torn(folder: Path) -> None:
    """Remove what write_bytes and replacing_file left in a folder when they were killed; never raises."""
    import psutil

    for path in folder.glob(".*.tmp"):
        pid = path.name.split(".")[-3:][0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            with suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def disk_error(error: OSError, folder: Path) -> RunError:
    """An OSError of the file system in words that say what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(f"The disk of {folder} is full. What is saved is safe: free some space, then resume.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return RunError(f"{folder} cannot be written. Choose another folder (--runs, KPOP_RUNS or --out).")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return RunError(f"{folder} is not a folder. Choose another folder (--runs, KPOP_RUNS or --out).")
    if error.errno == errno.ENOENT:
        return RunError(f"{folder} is gone: the run was deleted or moved.")
    return RunError(f"{folder} cannot be used ({error.strerror or error}). Check the disk, then resume.")


@contextmanager
def hidden_folder(parent: Path) -> Iterator[Path]:
    """A new folder in `parent` that no list shows, to fill and rename; removed otherwise. Raises RunError."""
    made = None
    try:
        parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
        made.chmod(0o755)
        yield made
    except OSError as error:
        raise disk_error(error, parent) from error
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A path to make a folder at; it takes the place of `out` when the body ends well, else nothing changes.

    Its parent is a folder of its own beside `out`, removed afterwards. Raises RunError.
    """
    with hidden_folder(out.parent) as place:
        made, old = place / out.name, place / f"{out.name}-old"
        yield made
        if out.exists():
            os.rename(out, old)
        try:
            os.rename(made, out)
        except OSError:
            if old.exists():
                os.rename(old, out)
            raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock file, between threads and processes. Raises RunError."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(path, timeout=LOCK_TIMEOUT):
            yield
    except Timeout:
        raise RunError(f"{path} is held by another process. Close that, then try again.") from None
    except OSError as error:
        raise disk_error(error, path.parent) from error


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock file now; False where it cannot be tried."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False


def finite(value: object) -> object:
    """A JSON value with None for NaN and infinity, which JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def brief(error: Exception) -> str:
    """The first line of an error, for the inside of a sentence."""
    text = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
    return text[:160]
