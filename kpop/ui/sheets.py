"""A compare sheet: one prompt, some seeds, three variants, and the judge's word under each picture."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from PIL import Image

from .. import generation, models
from ..config import names
from ..errors import InputError
from .pictures import VARIANTS, framed, sheet
from .run_picker import concept_names, has_result
from .studio import Studio, cache_dir, keep, opened, phrase

OWN, NONE = "own", "none"
FIRST_SEEDS = (0, 1, 2, 3)


@dataclass(frozen=True, eq=False)
class Sheet:
    """images[variant] and words[variant] have one entry a seed; words are "" without a judge."""

    run_id: str
    prompt: str
    seeds: tuple[int, ...]
    key: str
    images: dict[str, list[Image.Image]] = field(repr=False)
    words: dict[str, list[str]]


def key_choices(run) -> list[tuple[str, str]]:
    """(label, value) of the keys a run can be given: its own, none, one concept's of several."""
    known = concept_names(run)
    found = [("its own key", OWN), ("no key", NONE)]
    if len(known) > 1:
        found += [(f"the key of “{name}”", name) for name in known]
    return found


def key_value(run, key: str | None):
    """A choice of `key_choices` as generation's `key`. Raises InputError: a visitor never names a file."""
    if key in (OWN, "", None):
        return OWN
    if key == NONE:
        return None
    if isinstance(key, str) and key in concept_names(run):
        return key
    known = ", ".join(concept_names(run))
    raise InputError(
        f"Unknown key {str(key)[:60]!r}. Choose own, none, or one of this run's concepts: {known}."
    )


def checked(studio: Studio, run, prompt: str):
    """The pipeline of a run after checking that it has weights and that the prompt can be used."""
    if not has_result(run):
        raise InputError("This run has no weights yet. Wait until it is done, or stop and keep it.")
    if not isinstance(prompt, str) or not prompt.strip():
        raise InputError("Write a prompt, such as “a church”.")
    pipe = studio.pipe(studio.allowed_model(run.config.model))
    models.check_text(pipe, prompt)
    return pipe


def draw_sheet(
    studio: Studio, run, prompt: str, seeds: Sequence[int], key: str | None, on_step: Callable | None = None
) -> Sheet:
    """Draw all three variants from the same start noise, ask the judge, keep the sheet in the run folder."""
    pipe = checked(studio, run, prompt)
    chosen = key_value(run, key)
    more = {"on_step": on_step} if on_step else {}
    with studio.turn():
        images = generation.compare(pipe, [prompt], list(seeds), run, key=chosen, **more)
        words = {variant: studio.named(images[variant], run.config.model) for variant in images}
    drawn = Sheet(run.id, prompt, tuple(seeds), key or OWN, images, words)
    save_sheet(drawn, run)
    return drawn


def first_prompt(run) -> str:
    """What a run is asked first: its first concept."""
    return phrase(concept_names(run)[0])


def save_sheet(drawn: Sheet, run, folder: Path | None = None) -> None:
    """Keep a sheet's pictures and words; a folder that cannot be written is no reason to fail."""
    folder = folder or _folder(run, drawn.prompt, drawn.seeds, drawn.key)
    for variant, images in drawn.images.items():
        for seed, image in zip(drawn.seeds, images, strict=True):
            keep(image, folder / f"{variant}_{seed}.png")
    waiting = folder / f".words.{os.getpid()}"
    try:
        waiting.write_text(json.dumps(drawn.words), encoding="utf-8")
        os.replace(waiting, folder / "words.json")
    except OSError:
        return


def saved_sheet(run, prompt: str, seeds: Sequence[int], key: str = OWN) -> Sheet | None:
    """The sheet kept from an earlier drawing, from the run folder or the cache; None where there is none."""
    for folder in (_folder(run, prompt, seeds, key), run.path / "compare" / _name(run, prompt, seeds, key)):
        try:
            words = json.loads((folder / "words.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        images = {
            variant: [opened(folder / f"{variant}_{seed}.png") for seed in seeds] for variant in VARIANTS
        }
        if all(image is not None for row in images.values() for image in row) and isinstance(words, dict):
            told = {
                variant: [str(word) for word in words.get(variant, [""] * len(seeds))] for variant in VARIANTS
            }
            return Sheet(run.id, prompt, tuple(seeds), key, images, told)
    return None


def _name(run, prompt: str, seeds: Sequence[int], key: str) -> str:
    # The step is part of the name: a resumed run has other weights, so its old sheets no longer count.
    told = json.dumps([prompt, list(seeds), key, run.status.step])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _folder(run, prompt: str, seeds: Sequence[int], key: str) -> Path:
    """In the run folder; for the shipped example, which is not written to, in the cache."""
    place = cache_dir() / "compare" / run.id if run.is_example else run.path / "compare"
    return place / _name(run, prompt, seeds, key)


def save_first_sheet(studio: Studio, run) -> Sheet:
    """Draw a run's first sheet into its own folder: how the shipped example gets its pictures."""
    drawn = draw_sheet(studio, run, first_prompt(run), FIRST_SEEDS, OWN)
    save_sheet(drawn, run, run.path / "compare" / _name(run, drawn.prompt, drawn.seeds, drawn.key))
    return drawn


def sheet_html(studio: Studio, drawn: Sheet, run) -> str:
    """The sheet as a grid: rows variants, columns seeds."""
    rows = []
    for variant in VARIANTS:
        cells = []
        for seed, image, word in zip(drawn.seeds, drawn.images[variant], drawn.words[variant], strict=True):
            cells.append(framed(image, variant, f"{drawn.prompt}, {variant}, seed {seed}", word))
        rows.append((variant, cells))
    grid = sheet(rows, [f"seed {seed}" for seed in drawn.seeds], f"{drawn.prompt}: variants by seeds")
    return grid + counted(studio, drawn, run)


def counted(studio: Studio, drawn: Sheet, run) -> str:
    """One sentence with the judge's counts for the concept that the prompt names; "" without a judge."""
    words = {word.lower() for word in re.findall(r"[^\W_]+", drawn.prompt)}
    asked = [c for c in map(names, run.config.concepts) if any(set(n.lower().split()) <= words for n in c)]
    judge = studio.judge(run.config.model)
    if not asked or judge is None:
        return ""
    wanted = {name.lower() for name in asked[0]}
    counts = []
    for variant in VARIANTS:
        seen = sum(word.lower() in wanted for word in drawn.words[variant])
        counts.append(f"<b class='{variant}'>{seen} of {len(drawn.seeds)} {variant}</b>")
    return (
        f"<p class='sum'>The judge sees a {escape(asked[0][0])} in {', '.join(counts)} pictures. "
        f"<span class='fine'>It is right on {judge.accuracy:.1f} % of held-out scenes.</span></p>"
    )
