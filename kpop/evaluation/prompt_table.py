"""Prompt lists as the public benchmarks ship them: I2P, Imagenette, long_niche_art, COCO-30k and their kin.

A CSV with the columns prompt and evaluation_seed (or seed). case_number names the row's picture; rows
without one (COCO-30k) count from 0. label_str, label or class: what should be seen. artist: whose style.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError

MOST_ROWS = 100_000
LABELS = ("label_str", "label", "class")
ARTIST = "artist"
SEEDS = ("evaluation_seed", "seed")
ALL = "all"


@dataclass(frozen=True)
class Case:
    """One row: a prompt with its seed. number: names its picture; label: "" where the list has none."""

    number: str
    prompt: str
    seed: int
    label: str = ""
    group: str = ALL

    @property
    def name(self) -> str:
        """The label as text, such as Van Gogh of Van_Gogh."""
        return self.label.replace("_", " ")

    @property
    def unnamed(self) -> str:
        """The prompt without its label: of "a barn, ink style", "a barn"; "" where it does not have it."""
        rest = re.sub(rf"(?<!\w){re.escape(self.name)}(?!\w)", " ", self.prompt, flags=re.IGNORECASE)
        rest = re.sub(r"\s+", " ", rest).replace(" ,", ",").strip(" ,")
        return "" if rest == self.prompt or not self.label else rest


@dataclass(frozen=True)
class PromptTable:
    """A prompt list. label_column: where the cases' labels stood, None without any."""

    name: str
    cases: tuple[Case, ...]
    label_column: str | None

    @property
    def has_classes(self) -> bool:
        """Whether the labels are things to see, and not artists."""
        return self.label_column not in (None, ARTIST)


def read_prompts(path: str | Path, limit: int | None = None) -> PromptTable:
    """The first `limit` rows of a CSV, or all; no more of the file is read than that, and MOST_ROWS at most.

    Raises InputError that names what is wrong and where.
    """
    path = Path(path).expanduser()
    if limit is not None and not 1 <= limit <= MOST_ROWS:
        raise InputError(f"--limit must be from 1 to {MOST_ROWS}, not {limit}.")
    name = path.name[-80:]
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            return _read(csv.DictReader(file), name, limit)
    except OSError as error:
        raise InputError(f"The prompts {name} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"The prompts {name} are not UTF-8; save the file again as CSV in UTF-8.") from error
    except csv.Error as error:
        raise InputError(f"The prompts {name} are no CSV file that can be read: {error}.") from error


def _read(rows: csv.DictReader, name: str, limit: int | None) -> PromptTable:
    columns = [column or "" for column in rows.fieldnames or ()]
    seed_column = next((column for column in SEEDS if column in columns), None)
    if "prompt" not in columns or seed_column is None:
        there = ", ".join(column[:30] for column in columns[:12]) or "none"
        raise InputError(
            f"The prompts {name} need the columns prompt and evaluation_seed; they have: {there}."
        )
    label_column = next((column for column in (*LABELS, ARTIST) if column in columns), None)
    cases: dict[str, Case] = {}
    for place, row in enumerate(rows):
        if place == limit:
            break
        if place == MOST_ROWS:
            raise InputError(
                f"The prompts {name} have more than {MOST_ROWS} rows; say with --limit how many of the first "
                "to take."
            )
        case = _case(row, place, seed_column, label_column, f"row {place + 1} of {name}")
        if case.number in cases:
            raise InputError(
                f"The case_number {case.number} stands twice in {name}, again in row {place + 1}."
            )
        cases[case.number] = case
    if not cases:
        raise InputError(f"The prompts {name} have no row.")
    return PromptTable(name, tuple(cases.values()), label_column)


def _case(row: dict, place: int, seed_column: str, label_column: str | None, where: str) -> Case:
    number = (row.get("case_number") or "").strip() or str(place)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}", number):
        raise InputError(f"The case_number {number[:40]!r} in {where} cannot name a picture.")
    # On one line, since predictions.csv is read line by line; a tokenizer reads it alike.
    prompt = " ".join((row["prompt"] or "").split())
    seed = _whole(row[seed_column])
    if seed is None:
        raise InputError(
            f"The seed {str(row[seed_column])[:40]!r} in {where} must be a whole number from 0 on."
        )
    label = " ".join((row.get(label_column) or "").split()) if label_column else ""
    if label_column and not label:
        raise InputError(f"The {label_column} in {where} is empty.")
    return Case(number, prompt, seed, label)


def _whole(text: str | None) -> int | None:
    """A seed; "3990.0" is how pandas writes one beside a gap."""
    found = re.fullmatch(r"\s*(\d{1,18})(\.0*)?\s*", text or "", re.ASCII)
    return int(found[1]) if found else None


def batches(cases: list[Case], size: int) -> Iterator[list[Case]]:
    """The cases in order, `size` at a time."""
    for start in range(0, len(cases), size):
        yield cases[start : start + size]
