"""What a command shows while it works and leaves behind: progress, Ctrl-C, folders, PNG files."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .disk import disk_error, write_bytes
from .kept import png_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

    from .runs import Run


@contextmanager
def progress_bar(unit: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr: show(done, of, words). Without a total it appears with the first step."""
    from tqdm import tqdm

    bar = None

    def show(done: int, of: int, words: str = "") -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=of, unit=unit, file=sys.stderr, dynamic_ncols=True, mininterval=0.5, leave=True)
        bar.total = of
        if words:
            bar.set_postfix_str(words, refresh=False)
        bar.update(done - bar.n)

    try:
        if total:
            show(0, total)
        yield show
    finally:
        if bar is not None:
            bar.close()


@contextmanager
def stop_on_interrupt(run: Run) -> Iterator[list]:
    """Ctrl-C asks the run to save and stop, twice raises KeyboardInterrupt; yields the list of them."""
    interrupted: list[int] = []

    def ask(number, _):
        interrupted.append(number)
        # Nothing is learned yet while it starts; and who presses twice does not want to wait.
        if len(interrupted) > 1 or run.status.state == "starting":
            raise KeyboardInterrupt
        run.request_stop()
        print("\nSaving after this step. Press Ctrl-C again to end at once.", file=sys.stderr)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def output_folder(path: str | Path) -> Path:
    """The folder, made where it is missing. Raises RunError when it cannot be written."""
    folder = Path(path).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise disk_error(error, folder) from error
    return folder


def save_png(image: Image, path: Path) -> Path:
    """A PNG with the texts of image.info as text chunks, whole or not at all. Raises RunError."""
    write_bytes(path, png_bytes(image))
    return path


def span(seconds: float | None) -> str:
    """ "40 s", "2 min", "1 h 20 min"; "" where unknown."""
    if seconds is None or seconds != seconds or seconds < 0:
        return ""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"
