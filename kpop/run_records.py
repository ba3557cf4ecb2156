"""What a run leaves in its folder as it trains: metrics.jsonl, checkpoint states, samples/, log.txt."""

from __future__ import annotations

import json
import os
import re
import threading
import traceback
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from .disk import disk_error, finite, write_text

END = 256  # bytes that tell whether a file only grew
TRACE = "trace.txt"  # in the folder of a run or an evaluation: what log.txt would show to every visitor
CHAINED = ("During handling of the above exception", "The above exception was the direct cause")


def append_metrics(folder: Path, row: dict) -> None:
    """Add one line to metrics.jsonl. Raises RunError when the disk refuses."""
    try:
        with open(folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(finite(row), ensure_ascii=False) + "\n")
    except OSError as error:
        raise disk_error(error, folder) from error


def read_metrics(folder: Path, max_points: int | None) -> list[dict]:
    """Rows of metrics.jsonl, thinned evenly to max_points; torn or foreign lines are left out.

    The rows are shared with later answers: leave them as they are.
    """
    rows = _reader(folder / "metrics.jsonl").all_rows()
    if max_points is None or len(rows) <= max_points:
        return rows
    if max_points < 2:
        return rows[-max_points:] if max_points > 0 else []
    last = len(rows) - 1
    return [rows[round(i * last / (max_points - 1))] for i in range(max_points)]


def truncate_metrics(folder: Path, step: int) -> None:
    """Drop rows after `step` and torn lines. Raises RunError."""
    if (folder / "metrics.jsonl").exists():
        kept = [line + "\n" for line, row in _metric_lines(folder) if row["step"] <= step]
        write_text(folder / "metrics.jsonl", "".join(kept))


def _metric_lines(folder: Path) -> Iterator[tuple[str, dict]]:
    try:
        text = (folder / "metrics.jsonl").read_text("utf-8", errors="replace")
    except OSError:
        return
    yield from _parse(text)


def _parse(text: str) -> Iterator[tuple[str, dict]]:
    for line in text.split("\n"):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int | float):
            yield line, row


class _Reader:
    """Rows of one metrics.jsonl; a second look reads only what was added, for pages look often."""

    def __init__(self, path: Path):
        self.path, self.guard = path, threading.Lock()
        self.inode, self.offset, self.end, self.rows = 0, 0, b"", []

    def all_rows(self) -> list[dict]:
        with self.guard:
            try:
                with open(self.path, "rb") as file:
                    added = self._added(file)
            except OSError:
                return []
            whole, newline, rest = added.rpartition(b"\n")
            self.offset += len(whole) + len(newline)
            self.end = (self.end + whole + newline)[-END:]
            self.rows += [row for _, row in _parse(whole.decode("utf-8", "replace"))]
            return [*self.rows, *(row for _, row in _parse(rest.decode("utf-8", "replace")))]

    def _added(self, file: BinaryIO) -> bytes:
        inode = os.fstat(file.fileno()).st_ino
        file.seek(self.offset - len(self.end))
        if inode != self.inode or file.read(len(self.end)) != self.end:  # another file, or written anew
            self.inode, self.offset, self.end, self.rows = inode, 0, b"", []
            file.seek(0)
        return file.read()


@lru_cache(maxsize=32)
def _reader(path: Path) -> _Reader:
    return _Reader(path)


def read_states(folder: Path) -> list[dict]:
    """state.json and before.json of a checkpoint folder, those that can be read, the newer first."""
    found = []
    for name in ("state.json", "before.json"):
        try:
            state = json.loads((folder / name).read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        step = state.get("step") if isinstance(state, dict) else None
        if isinstance(step, int) and not isinstance(step, bool) and step >= 0:
            found.append(state)
    return found


def find_samples(folder: Path) -> list[tuple[int, dict[str, Path]]]:
    """(step, name -> PNG path) by rising step."""
    found = []
    try:
        folders = list((folder / "samples").iterdir())
    except OSError:
        return []
    for place in folders:
        match = re.fullmatch(r"step_(\d+)", place.name)
        if match and place.is_dir():
            pictures = {path.stem: path for path in sorted(place.glob("*.png")) if path.name[0] != "."}
            if pictures:
                found.append((int(match[1]), pictures))
    return sorted(found, key=lambda item: item[0])


def keep_trace(folder: Path, error: BaseException) -> str:
    """Add an error's traceback to trace.txt; a sentence that names the file, or "" where it has no room."""
    try:
        with open(folder / TRACE, "a", encoding="utf-8") as file:
            file.write("".join(traceback.format_exception(error)) + "\n")
    except OSError:
        return ""
    return f"{TRACE} in its folder says more."


def log_tail(folder: Path, n: int) -> str:
    """The last n lines of log.txt; of a progress bar only its newest state; "" where there is no log.

    Tracebacks, which libraries and threads print there too, are left out.
    """
    try:
        with open(folder / "log.txt", "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 64_000))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1].rstrip() for line in text.split("\n")]
    return "\n".join(_sentences([line for line in lines if line])[-n:])


def _sentences(lines: list[str]) -> list[str]:
    """The lines without tracebacks: from their head to the first line that is not indented, included."""
    found, inside = [], False
    for line in lines:
        if "Traceback (most recent call last)" in line:
            inside = True
        elif inside:
            inside = line[:1].isspace()
        elif not line.startswith((*CHAINED, '  File "')):
            found.append(line)
    return found
