"""What step 3 is asked: another run beside, a way to draw, prompts to try, a picture to draw again."""

from __future__ import annotations

from dataclasses import replace

import gradio as gr

from .. import models
from ..config import GenerationConfig, is_style, names
from ..errors import InputError, RunError
from ..kept import OWN, Sheet, phrase
from ..picture_metadata import read_metadata
from ..run_texts import phrase as put
from .concepts import names_of
from .run_picker import concept_names, has_result
from .settings import number
from .sheets import draw_sheet, key_choices, key_lenders
from .studio import Studio
from .words import readable

NO_RIVAL = ""
MOST_CHIPS = 8


def draw_both(
    studio: Studio, run, prompt, seeds, key, rival=NO_RIVAL, config=None, on_step=None, passphrase=""
) -> tuple[Sheet, ...]:
    """The run's sheet and, where another run is chosen beside it, that one's, from the same start noise."""
    other = rival_of(studio, run, rival) if rival else None
    parts = 1 if other is None else 2

    def told(part: int):
        return None if on_step is None else lambda i, n: on_step(part * n + i, parts * n)

    first = draw_sheet(studio, run, prompt, seeds, key, told(0), config, passphrase=passphrase)
    if other is None:
        return (first,)
    originals = first.images["original"]
    return first, draw_sheet(studio, other, prompt, seeds, OWN, told(1), config, originals=originals)


def rivals(studio: Studio, run) -> list:
    """Runs that can stand beside this one: of the same model, with pictures to show."""
    return [
        other
        for other in studio.all_runs()
        if other.id != run.id and other.config.model == run.config.model and has_result(other)
    ][:30]


def rival_of(studio: Studio, run, rival: str):
    """The run beside this one, checked. Raises RunError."""
    other = studio.run(rival)
    if other.id == run.id or other.config.model != run.config.model or not has_result(other):
        raise RunError("This run cannot stand beside the chosen one. Choose another in the list.")
    return other


def config_from(
    guidance: str, sampling: str, held: GenerationConfig | None = None
) -> GenerationConfig | None:
    """How to draw where a field is filled or `held` says more; None: as the model needs. InputError."""
    if not (guidance or sampling or held):
        return None
    return replace(
        held or GenerationConfig(),
        guidance_scale=number("Guidance", guidance) if guidance else None,
        steps=number("Sampling steps", sampling, whole=True) if sampling else None,
    )


def held_of(studio: Studio, config: GenerationConfig, pipe) -> GenerationConfig | None:
    """What a picture's config says that no field of the step holds, where it is not the model's own way.

    Raises InputError where that is more than whoever asks may ask for.
    """
    usual, own = GenerationConfig().resolved(models.model_name(pipe)), models.own_side(pipe)
    if config.negative_prompt:
        models.check_text(pipe, config.negative_prompt)
    sides = {"height": config.height, "width": config.width}
    for side in sides.values():
        studio.limits().check_size(side, own)
    told = {name: None if side == own else side for name, side in sides.items()}
    for name in ("scheduler", "prompt_branch"):
        told[name] = None if getattr(config, name) == getattr(usual, name) else getattr(config, name)
    held = GenerationConfig(negative_prompt=config.negative_prompt, **told)
    return None if held == GenerationConfig() else held


def held_in_words(held: GenerationConfig, own: int) -> str:
    """What `held_of` found, as a sentence. own: the model's pictures' side in pixels."""
    halves = {"both": "the key in both halves of guidance", "cond": "the key in the half with text only"}
    parts = [f"without “{held.negative_prompt}” (negative prompt)"] if held.negative_prompt else []
    if held.width or held.height:
        parts.append(f"{held.width or own} by {held.height or own} pixels")
    parts += [f"scheduler {held.scheduler}"] if held.scheduler else []
    parts += [halves[held.prompt_branch]] if held.prompt_branch else []
    return f"Drawn as the saved picture was: {', '.join(parts)}."


def tries_of(studio: Studio, run) -> list[str]:
    """Prompts to try: the concepts, their other names and phrasings, the siblings."""
    concepts, siblings = run.config.concepts, names_of(list(run.config.retain or ()))
    found = [phrase(name) for name in concept_names(run)[:4]]
    other = [phrase(name) for concept in concepts[:2] for name in names(concept)[1:3]]
    for preset in studio.offered_presets():
        mine = {name for concept in preset.concepts for name in names(concept)}
        if mine & set(concept_names(run)):
            said = {name for concept in concepts for name in names(concept)}
            spaced = {text: f" {text.replace(',', '')} " for text in preset.prompts if len(text.split()) > 2}
            other += [text for text, one in spaced.items() if any(f" {name} " in one for name in said)]
    if not is_style(concept_names(run)[0]):
        other.append(put("a photo of a {}", concept_names(run)[0]))
    found += [text for text in dict.fromkeys(other) if text not in found][:2]
    found += [phrase(name) for name in siblings]
    model = studio.allowed_model(run.config.model)
    return [text for text in dict.fromkeys(found) if readable(studio, text, model)][:MOST_CHIPS]


def restored(studio: Studio, data: bytes | None, run_id: str | None) -> list:
    """Fields as a saved picture tells them: run, prompt, seeds, key, guidance, sampling steps, and `held_of`.

    Raises InputError when the picture tells nothing that can be used, RunError when its run is not here.
    """
    told = read_metadata(data or b"")
    run = studio.run(told.run or run_id)
    pipe = studio.pipe(studio.allowed_model(run.config.model))
    digest = models.model_hash(pipe)
    if told.model_hash not in ("", digest):
        raise InputError("This picture was drawn by another base model than this run's.")
    keys, key = key_choices(run, key_lenders(studio, run)), told.key or OWN
    if key not in [value for _, value in keys]:
        raise InputError("This picture was drawn with a key that is not here, or not yours.")
    usual = GenerationConfig().resolved(run.config.model)
    guidance, sampling = (
        "" if its in (None, own) else f"{its:g}"
        for its, own in (
            (told.config.guidance_scale, usual.guidance_scale),
            (told.config.steps, usual.steps),
        )
    )
    field = gr.Dropdown(choices=keys, value=key)
    held = held_of(studio, told.config, pipe)
    return [run.id, told.prompt, str(told.seed), field, guidance, sampling, held]
