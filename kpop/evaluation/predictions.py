"""predictions.csv: a row a picture, written as it is judged, so that what was broken off goes on."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

from ..disk import disk_error, write_json, write_text
from ..errors import InputError

Row = dict[str, str]
KeyOf = Callable[[Row], Hashable | None]


class Predictions:
    """Rows by their key. They are appended as they come; a torn last row is made again."""

    def __init__(self, path: Path, columns: Sequence[str], key_of: KeyOf, rows: dict[Hashable, Row]):
        self.path, self.columns, self.key_of, self.rows = path, tuple(columns), key_of, rows

    @classmethod
    def open(cls, out: Path, settings: dict[str, Any], columns: Sequence[str], key_of: KeyOf) -> Predictions:
        """Those in `out`, or new ones there. Values hold no line end; key_of gives None for a useless row.

        settings: what they depend on. Raises InputError where those in `out` were made with others.
        """
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, out) from error
        path, about = out / "predictions.csv", out / "settings.json"
        plain = json.loads(json.dumps(settings))
        if path.exists():
            try:
                same = json.loads(about.read_text("utf-8")) == plain
            except (OSError, ValueError):
                same = False
            if not same:
                raise InputError(
                    f"{out} holds predictions made with other settings; choose another with --out."
                )
            found = cls(path, columns, key_of, _read(path, columns, key_of))
            if not _has_head(path, columns):
                found.tidy()  # of an earlier version: its rows lack columns, and are made again
            return found
        write_json(about, plain)
        write_text(path, ",".join(columns) + "\n")
        return cls(path, columns, key_of, {})

    def add(self, rows: Sequence[Row]) -> None:
        """Keep rows of all columns, on disk before this returns. Raises RunError."""
        try:
            with open(self.path, "a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self.columns).writerows(rows)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise disk_error(error, self.path.parent) from error
        for row in rows:
            self.rows[self.key_of(row)] = row

    def tidy(self) -> None:
        """Write the file again, without torn or doubled rows."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows.values())
        write_text(self.path, text.getvalue())


def _has_head(path: Path, columns: Sequence[str]) -> bool:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.readline().rstrip("\r\n") == ",".join(columns)


def _read(path: Path, columns: Sequence[str], key_of: KeyOf) -> dict[Hashable, Row]:
    rows = {}
    try:
        text = path.read_text("utf-8", errors="replace")
    except OSError as error:
        raise disk_error(error, path.parent) from error
    whole = text[: text.rfind("\n") + 1]  # what follows the last line end was cut off
    for row in csv.DictReader(whole.splitlines(), columns):
        key = None if None in row or None in row.values() else key_of(row)
        if key is not None:
            rows[key] = row
    if len(whole) != len(text):
        write_text(path, whole)
    return rows
