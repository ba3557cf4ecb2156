"""Fold of step 3: a key made without the key, in the background, to be tried like any other."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import gradio as gr

from ..forging_jobs import forged_files, forging, stop
from ..run_status import ACTIVE, RunStatus
from .boundary import plainly
from .compare import CompareStep
from .page import NEWEST, QUIET, Page
from .run_picker import has_result
from .sheets import has_sealed_key, key_choices, key_lenders
from .studio import Studio
from .train import owned

ABOUT = (
    "Whoever holds the sanitized weights and the base model can rebuild a key: this makes one that way, from "
    "noise and without the run’s own, in as many steps."
)
EVERY = 3  # seconds between two looks while a key is being forged


@dataclass(frozen=True)
class ForgePart:
    """Components of the fold. timer: ticks while a key is being forged."""

    told: gr.HTML
    make: gr.Button
    stop: gr.Button
    timer: gr.Timer


def build_forge() -> ForgePart:
    """Lay the fold out."""
    with gr.Accordion("A forged key", open=False, elem_classes="fold", elem_id="forge"):
        told = gr.HTML(f"<p class='fine'>{ABOUT}</p>", elem_id="forge-told")
        with gr.Row(elem_classes="tight"):
            make = gr.Button("Forge a key", visible=False, elem_id="forge-make", scale=0, min_width=160)
            end = gr.Button("Stop", visible=False, elem_id="forge-stop", scale=0, min_width=120)
    return ForgePart(told, make, end, gr.Timer(EVERY, active=False))


def wire_forge(page: Page, part: ForgePart, compare: CompareStep, tab: gr.Tab) -> None:
    """Connect the fold: it looks at the run when the step opens, and again and again while a key is made."""
    studio = page.studio
    shown = [part.told, part.make, part.stop, part.timer, compare.key]

    @plainly
    def look(run_id):
        return forge_values(studio, run_id)

    @plainly
    def make(run_id, request: gr.Request):
        owned(studio, run_id, request)
        studio.forge(studio.run(run_id))
        return forge_values(studio, run_id)

    @plainly
    def end(run_id, request: gr.Request):
        owned(studio, run_id, request)
        stop(studio.run(run_id))
        return forge_values(studio, run_id)

    page.picked.then(look, page.picker, shown, **NEWEST, **QUIET)
    for event in (tab.select, part.timer.tick):
        event(look, page.picker, shown, **QUIET)
    part.make.click(make, page.picker, shown, api_visibility="private")
    part.stop.click(end, page.picker, shown, api_visibility="private")


def forge_values(studio: Studio, run_id: str | None) -> list:
    """What the fold shows of a run: text, two buttons, whether to look again, and the keys to choose from."""
    if not run_id:
        hidden = [gr.Button(visible=False), gr.Button(visible=False)]
        return [f"<p class='fine'>{ABOUT}</p>", *hidden, gr.Timer(active=False), gr.skip()]
    run = studio.run(run_id)
    status, there = forging(run), len(forged_files(run)) == len(run.config.concepts)
    works = status is not None and status.state in ACTIVE
    mine = studio.may_change(run, studio.asking())
    ready = run.method.has_key and has_result(run) and run.status.state not in ACTIVE
    ready = mine and ready and not (works or there or has_sealed_key(run))
    keys = gr.skip() if works else gr.Dropdown(choices=key_choices(run, key_lenders(studio, run)))
    said = state_in_words(run, status, there)
    return [
        f"<p class='fine'>{ABOUT}</p>" + (f"<p>{escape(said)}</p>" if said else ""),
        gr.Button(visible=ready),
        gr.Button(visible=mine and works),
        gr.Timer(active=works),
        keys,
    ]


def state_in_words(run, status: RunStatus | None, there: bool) -> str:
    """How far the forging is, or why there is none; "" where nothing is to be said. there: all are made."""
    if run.is_example:
        return "Train a run of your own to forge a key of it."
    if not run.method.has_key:
        return f"{run.method.title} leaves no key to forge."
    if has_sealed_key(run):
        return (
            "The key of this run is sealed. Open it in step 6 first: a forged one would lie open beside it."
        )
    if status is not None and status.state == "running":
        return f"Forging: step {status.step} of {status.steps}."
    if status is not None and status.state in ACTIVE:
        return "It is stopping." if status.state == "stopping" else "It waits until the device is free."
    if there:
        return "It is made: choose it at “Key” above."
    return (status and status.error) or ""
