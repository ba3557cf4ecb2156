"""A compare sheet: one prompt, some seeds, a run's variants, and the judge's word under each picture."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path

from PIL import Image

from .. import generation, models
from ..config import GenerationConfig, concept_name, is_style, names
from ..continual import key_files
from ..errors import InputError
from ..first_pictures import cache_dir
from ..forging_jobs import forged_files
from ..kept import OWN, Sheet, folder_of, read_sheet, write_sheet
from ..key_sealing import check_open, is_sealed, load_key, unlocked
from .run_picker import has_result, told_apart
from .studio import Studio

NONE, RANDOM = "none", "random"
EVERY_KEY = [("its own key", OWN), ("no key", NONE), ("a random key", RANDOM)]  # of a run that has one
OF_RUN = "run:"  # before the id of another run whose key is tried
FORGED = "forged:"  # before the concept of a forged key


def key_choices(run, others: Sequence = ()) -> list[tuple[str, str]]:
    """(label, value) of the keys a run can be given: its own, none, one concept's of several, a random one, a
    forged one, and those of `others`, the runs whose keys this visitor may use.
    """
    if not run.method.has_key:
        return [(f"{run.method.title} leaves no key", OWN)]
    known = hidden_names(run)
    found = list(EVERY_KEY)
    if len(known) > 1:
        found += [(f"the key of “{name}”", name) for name in known]
    forged = forged_files(run)
    found += [(f"a forged key of “{n}”" if len(forged) > 1 else "a forged key", FORGED + n) for n in forged]
    told = zip(told_apart(others), others, strict=True)
    return [*found, *((f"key of another run: {name}", f"{OF_RUN}{other.id}") for name, other in told)]


def key_lenders(studio: Studio, run) -> list:
    """Other runs of the same model whose one key whoever asks may use: own runs, public ones, the example."""
    owner = studio.asking()
    return [
        other
        for other in studio.all_runs()
        if other.id != run.id
        and (other.is_example or other.status.public or other.status.owner == owner)
        and other.config.model == run.config.model
        and other.method.has_key
        and has_result(other)
        and len(hidden_names(other)) == 1
    ][:8]


def hidden_names(run) -> list[str]:
    """Concepts the run holds a key of: its own, and those of the runs it started from."""
    return [concept_name(concept) for concept in key_files(run)]


def key_value(run, key: str | None, others: Sequence = ()):
    """A choice of `key_choices` as generation's `key`. Raises InputError: a visitor never names a file."""
    if key in (OWN, "", None):
        return OWN
    if key == NONE:
        return None
    if key == RANDOM and run.method.has_key:
        from ..decoys import random_key

        return random_key(load_key(run, next(iter(key_files(run).values()))), seed=0)
    if isinstance(key, str) and key in hidden_names(run):
        return key
    if isinstance(key, str) and key.removeprefix(FORGED) in forged_files(run):
        return load_key(run, forged_files(run)[key.removeprefix(FORGED)])
    for other in others:
        if key == f"{OF_RUN}{other.id}":
            check_open(other)
            return next(iter(key_files(other).values()))
    if key == f"{OF_RUN}{run.id}":
        return OWN
    if isinstance(key, str) and key.startswith(OF_RUN):
        raise InputError(
            "Of another run only a key of your own, or a public one, of the same base model can be tried."
        )
    known = ", ".join(hidden_names(run))
    raise InputError(
        f"Unknown key {str(key)[:60]!r}. Choose own, none, random, or one of this run's concepts: {known}."
    )


def keyed(studio: Studio, run, key: str | None) -> dict:
    """The arguments `key` and `key_name` of `generation` for a choice of `key_choices`. As `key_value`."""
    chosen = key_value(run, key, key_lenders(studio, run))
    return {"key": chosen, "key_name": OWN if chosen == OWN else key}


def opened(studio: Studio, run, passphrase: str | None):
    """The run, with its sealed key in memory where a passphrase is given. Raises InputError, RunError."""
    if not passphrase or not is_sealed(run):
        return run
    with studio.guess(run.id):
        return unlocked(run, passphrase)


def has_sealed_key(run) -> bool:
    """Whether a passphrase is needed to draw with the run's key."""
    return run.method.has_key and run.unlocked is None and is_sealed(run)


def drawable(run, key: str | None) -> tuple[str, ...]:
    """The run's variants without the recovered one where the chosen key is its own, and sealed."""
    shut = key != NONE and not str(key).startswith(OF_RUN) and has_sealed_key(run)
    return tuple(variant for variant in run.method.variants if not (shut and variant == "recovered"))


def unopened(run, variants: Iterable[str]) -> str:
    """A sentence on why there is no recovered variant among those drawn; "" where none is missing."""
    if set(run.method.variants) <= set(variants):
        return ""
    return "The key of this run is sealed, so nothing is drawn with it. Give its passphrase in step 3."


def checked(studio: Studio, run, prompt: str):
    """The pipeline of a run after checking that it has weights and that the prompt can be used."""
    if not has_result(run):
        raise InputError("This run has no weights yet. Wait until it is done, or stop and keep it.")
    if not isinstance(prompt, str) or not prompt.strip():
        raise InputError("Write a prompt, such as “a church”.")
    studio.limits().check_prompt(prompt)
    pipe = studio.pipe(studio.allowed_model(run.config.model))
    models.check_text(pipe, prompt)
    return pipe


def draw_sheet(
    studio: Studio,
    run,
    prompt: str,
    seeds: Sequence[int],
    key: str | None,
    on_step: Callable | None = None,
    config: GenerationConfig | None = None,
    originals: Sequence[Image.Image] = (),
    passphrase: str | None = "",
) -> Sheet:
    """Draw the run's variants from the same start noise, ask the judge, keep the sheet in the run folder.

    config: None for what the model needs; only such sheets are kept. originals: the original model's pictures
    of the same question, where they are drawn already. passphrase: opens a sealed key for this drawing, of
    which then nothing is kept; without one the recovered variant is left out.
    """
    pipe, key, run = checked(studio, run, prompt), key or OWN, opened(studio, run, passphrase)
    variants = drawable(run, key)
    chosen = keyed(studio, run, key) if "recovered" in variants else {}
    left = [variant for variant in variants if variant != "original" or not originals]
    studio.limits().check_pictures(len(left) * len(seeds), config and config.steps)
    with studio.turn():
        images = generation.compare(
            pipe, [prompt], list(seeds), run, config=config, variants=left, on_step=on_step, **chosen
        )
        images = ({"original": list(originals)} if originals else {}) | images
        words = {variant: studio.named(images[variant], run.config.model) for variant in images}
    drawn = Sheet(run.id, prompt, tuple(seeds), key, images, words)
    whole = variants == run.method.variants and run.unlocked is None
    there = (run.path / "config.json").is_file()  # or it was deleted meanwhile, and would come back
    if config is None and whole and there and not key.startswith(OF_RUN):
        write_sheet(drawn, _folder(run, drawn.prompt, drawn.seeds, drawn.key))
    return drawn


def saved_sheet(run, prompt: str, seeds: Sequence[int], key: str = OWN) -> Sheet | None:
    """The sheet kept from an earlier drawing, from the run folder or the cache; None where there is none."""
    folders = dict.fromkeys((_folder(run, prompt, seeds, key), folder_of(run, prompt, seeds, key)))
    found = (read_sheet(folder, run, prompt, seeds, key) for folder in folders)
    return next((drawn for drawn in found if drawn), None)


def _folder(run, prompt: str, seeds: Sequence[int], key: str) -> Path:
    """In the run folder; for the shipped example, which is not written to, in the cache."""
    place = cache_dir() / "compare" / run.id / run.weights_stamp() if run.is_example else None
    return folder_of(run, prompt, seeds, key, place)


def counted(studio: Studio, drawn: Sheet, run) -> str:
    """One sentence with the judge's counts for the concept that the prompt names; "" without a judge."""
    words = {word.lower() for word in re.findall(r"[^\W_]+", drawn.prompt)}
    asked = [c for c in map(names, run.config.concepts) if any(set(n.lower().split()) <= words for n in c)]
    judge = studio.judge(run.config.model)
    if not asked or judge is None:
        return ""
    wanted, styled = {name.lower() for name in asked[0]}, any(map(is_style, asked[0]))
    counts = []
    for variant, images in drawn.images.items():
        words = [f"{style} style" for style in judge.styles(images)] if styled else drawn.words[variant]
        seen = sum(word.lower() in wanted for word in words)
        counts.append(f"<b class='{variant}'>{seen} of {len(drawn.seeds)} {variant}</b>")
    right = judge.config["held_out_style_accuracy"] if styled else judge.accuracy
    return (
        f"<p class='sum'>The judge sees {'the' if styled else 'a'} {escape(asked[0][0])} in "
        f"{', '.join(counts)} pictures. <span class='fine'>It is right on {right:.1f} % of held-out "
        "scenes.</span></p>"
    )
