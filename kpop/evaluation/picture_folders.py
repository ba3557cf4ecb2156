"""Pictures of prompt lists on disk: drawn a batch at a time and kept at once, or made elsewhere.

One folder a variant, one PNG a row, named after its case_number, as the public scripts do it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from ..disk import disk_error, write_bytes
from ..errors import InputError
from ..kept import png_bytes
from ..processes import Processes
from .prompt_table import Case, batches

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
MOST_PIXELS = 64_000_000

Draw = Callable[
    [list[tuple[str, int]]], dict[str, list[Image.Image]]
]  # (prompt, seed)s -> variant -> pictures
Progress = Callable[[int, int], None]
Paths = dict[str, Path]  # case number -> picture


def draw_missing(
    draw: Draw,
    cases: Sequence[Case],
    folders: dict[str, Path],
    batch_size: int,
    processes: Processes,
    on_progress: Progress | None = None,
    on_batch: Callable[[Sequence[Case]], None] | None = None,
) -> None:
    """Draw the cases that lack a picture of a variant; each process takes its share, then waits for all.

    folders: variant -> where its pictures are kept. on_batch: told the cases drawn, once they are kept.
    Raises RunError, and what `draw` raises.
    """
    try:
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        there = {variant: set(os.listdir(folder)) for variant, folder in folders.items()}
    except OSError as error:
        raise disk_error(error, next(iter(folders.values()))) from error
    left = [case for case in cases if any(f"{case.number}.png" not in names for names in there.values())]
    processes.wait()  # until all have seen the same folders
    mine = left[processes.rank :: processes.count]
    show = on_progress if on_progress and mine else lambda done, of: None
    done, total = 0, len(mine) * len(folders)
    show(done, total)
    for batch in batches(mine, batch_size):
        pictures = draw([(case.prompt, case.seed) for case in batch])
        for variant, folder in folders.items():
            for case, image in zip(batch, pictures[variant], strict=True):
                write_bytes(folder / f"{case.number}.png", png_bytes(image))
        done += len(batch) * len(folders)
        show(done, total)
        if on_batch is not None:
            on_batch(batch)
    processes.wait()


def find_pictures(folder: str | Path, cases: Sequence[Case]) -> dict[str, list[Path]]:
    """case number -> its pictures in a folder made elsewhere: NUMBER.png, or NUMBER_0.png, NUMBER_1.png ...

    Raises InputError where the folder cannot be read, or a case has no picture.
    """
    folder = Path(folder).expanduser()
    try:
        names = {
            path.stem: path
            for path in sorted(Path(entry.path) for entry in os.scandir(folder))
            if path.suffix.lower() in ENDINGS
        }
    except OSError as error:
        raise InputError(
            f"The pictures in {folder.name} cannot be read: {error.strerror or error}."
        ) from error
    copies: dict[str, dict[int, Path]] = {}
    for stem, path in names.items():
        if found := re.fullmatch(r"(.+)_(\d{1,6})", stem, re.ASCII):
            copies.setdefault(found[1], {})[int(found[2])] = path
    found, missing = {}, []
    for case in cases:
        if case.number in names:
            found[case.number] = [names[case.number]]
        elif case.number in copies:
            found[case.number] = [path for _, path in sorted(copies[case.number].items())]
        else:
            missing.append(case.number)
    if missing:
        raise InputError(
            f"{folder.name} lacks the pictures of {len(missing)} of {len(cases)} rows, such as "
            f"{missing[0]}.png. Name pictures after their case_number, or take fewer rows with --limit."
        )
    return found


def with_copies(
    cases: Sequence[Case], found: dict[str, dict[str, list[Path]]]
) -> tuple[list[Case], dict[str, Paths]]:
    """A case a copy, and variant -> the copies' pictures. found: variant -> find_pictures.

    Raises InputError where the variants have not the same number of pictures of a row.
    """
    every: list[Case] = []
    paths: dict[str, Paths] = {variant: {} for variant in found}
    for case in cases:
        counts = {len(pictures[case.number]) for pictures in found.values()}
        if len(counts) > 1:
            raise InputError(f"The folders hold different numbers of pictures of row {case.number}.")
        for copy in range(counts.pop()):
            number = f"{case.number}_{copy}" if copy else case.number
            every.append(replace(case, number=number))
            for variant, pictures in found.items():
                paths[variant][number] = pictures[case.number][copy]
    return every, paths


def opened_picture(path: Path) -> Image.Image:
    """A picture of a folder, RGB. Raises InputError where it is broken, gone or very large."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > MOST_PIXELS:
                raise InputError(f"The picture {path.parent.name}/{path.name} is too large to be measured.")
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _broken(path) from error


def digest(path: Path) -> str:
    """Which picture it is, by its bytes, so that a copy is the same. Raises InputError where it is gone."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise _broken(path) from error


def _broken(path: Path) -> InputError:
    return InputError(
        f"The picture {path.parent.name}/{path.name} is broken. Put a whole one in its place (or delete "
        "it, if this command drew it) and say the same again: what is measured already is kept."
    )


def reference_pictures(folder: str | Path) -> list[Path]:
    """Every picture of a folder. Raises InputError where there are fewer than two."""
    folder = Path(folder).expanduser()
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)
    except OSError as error:
        raise InputError(
            f"The reference pictures in {folder.name} cannot be read: {error.strerror or error}."
        ) from error
    if len(paths) < 2:
        raise InputError(f"{folder.name} holds {len(paths)} pictures; a distance needs two or more.")
    return paths


def stream(paths: Iterable[Path]) -> Iterator[Image.Image]:
    """The pictures one after the other, none held longer than it is used."""
    return (opened_picture(path) for path in paths)
