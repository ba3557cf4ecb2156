"""What the components of step 3 hold: for a run, and for one sheet of pictures or two."""

from __future__ import annotations

import gradio as gr

from ..kept import FIRST_SEEDS, OWN, Sheet, first_prompt
from .compare_views import (
    HOVER,
    RIVAL,
    SLIDER,
    grid_html,
    hover_html,
    pair_choices,
    pair_in,
    skeleton,
    slider_value,
)
from .pictures import notice
from .questions import NO_RIVAL, rivals, tries_of
from .run_picker import has_result, subject, told_apart
from .sheets import drawable, has_sealed_key, key_choices, key_lenders, saved_sheet
from .studio import Studio, seeds_from


def fields_of(studio: Studio, run_id: str | None, key: str = OWN, again: bool = False) -> list:
    """Prompt, key, chips, runs to stand beside and the passphrase's field, emptied, for a run.

    key: the choice at present. again: what is typed stays as it is.
    """
    if not run_id:
        return [gr.skip()] * 5
    run = studio.run(run_id)
    beside, prompt = rivals(studio, run), first_prompt(run)
    told = zip(told_apart([run, *beside])[1:], [other.id for other in beside], strict=True)
    keys = {"choices": key_choices(run, key_lenders(studio, run))}
    # This answer may come late: a value that stays is not sent, or it would undo a choice made since.
    stays = again or key == OWN
    return [
        gr.skip() if again else prompt,
        gr.Dropdown(**keys) if stays else gr.Dropdown(**keys, value=OWN),
        gr.Radio(choices=tries_of(studio, run), value=None if again else prompt),
        gr.Dropdown(choices=[("none", NO_RIVAL), *told], value=NO_RIVAL),
        gr.Textbox(value="", visible=has_sealed_key(run)),
    ]


def kept(studio: Studio, run_id: str | None, pair: str | None, view: str) -> list:
    """The sheet kept for a run's first prompt, or what to do to get one."""

    def empty(title: str, text: str) -> list:
        return [notice(title, text), None, "", gr.Button(visible=False), gr.skip(), gr.skip(), None]

    if not run_id:
        return empty("No pictures yet", "Train a run in step 2, or choose one at the top.")
    run = studio.run(run_id)
    found = saved_sheet(run, first_prompt(run), FIRST_SEEDS)
    if found:
        return show(studio, (found,), pair, view)
    if not has_result(run):
        text = "When it is done, or stopped and kept, its pictures are drawn here."
        return empty(f"“{subject(run)}” is not forgotten yet", text)
    return empty("Nothing drawn for this run yet", "Press Draw.")


def opening(studio: Studio, run, prompt, seeds, key, pair, view, drawn) -> tuple[list, bool]:
    """What the opened step shows without drawing, and whether pictures are to be drawn unasked then.

    drawn: what this visitor looks at already, which stays.
    """
    stays = [gr.skip()] * 7
    if drawn and drawn[0].run_id == run.id:
        return stays, False
    if not has_result(run):
        return kept(studio, run.id, pair, view), False
    seeds = seeds_from(seeds)
    found = saved_sheet(run, prompt, seeds, key)
    if found:
        return show(studio, (found,), pair, view), False
    if studio.quick(run.config.model):
        return [skeleton(drawable(run, key), seeds), *stays[1:]], True
    return kept(studio, run.id, pair, view), False


def show(studio: Studio, drawn: tuple[Sheet, ...], pair: str | None, view: str) -> list:
    """Outputs for one sheet or two: grid, `two_pictures`, pairs, seeds, the sheets themselves."""
    seeds = [f"{seed}" for seed in drawn[0].seeds]
    variants = [*drawn[0].images]
    variants += [f"{RIVAL}{name}" for one in drawn[1:] for name in one.images if name != "original"]
    pair = pair_in(pair, variants)
    return [
        grid_html(studio, drawn),
        *two_pictures(studio, drawn, pair, seeds[0], view),
        gr.Radio(choices=pair_choices(variants), value=pair),
        gr.Radio(choices=seeds, value=seeds[0]),
        drawn,
    ]


def two_pictures(studio: Studio, drawn, pair: str | None, seed: str | None, view: str) -> tuple:
    """Slider, hover, and the button that uncovers the slider; only what is looked at is filled."""
    slider, hidden = slider_value(studio, drawn, pair, seed) if view == SLIDER else (None, False)
    return slider, hover_html(studio, drawn, pair) if view == HOVER else "", gr.Button(visible=hidden)
