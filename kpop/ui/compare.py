"""Step 3: the same prompt and seeds before forgetting, after it, with the key, and by another run."""

from __future__ import annotations

import time
from dataclasses import dataclass
from html import escape

import gradio as gr

from .. import models
from ..kept import OWN, first_prompt
from .boundary import plainly
from .compare_values import fields_of, kept, opening, show, two_pictures
from .compare_views import (
    GRID,
    HOVER,
    SLIDER,
    grid_html,
    skeleton,
    slider_value,
)
from .page import GPU, NEWEST, QUIET, SOFT, Page, heading, whenever
from .pictures import notice
from .questions import NO_RIVAL, config_from, draw_both, held_in_words, restored, rival_of
from .run_picker import RunPicker
from .sheets import (
    EVERY_KEY,
    checked,
    drawable,
    has_sealed_key,
    keyed,
)
from .studio import Studio, seeds_from


@dataclass(frozen=True)
class CompareStep:
    """Components of the step.

    passphrase: shown where the run's key is sealed. drawn: this visitor's last sheet, or two, in a tuple.
    lacking: changes when the step opens on what nothing is kept of. held: how a saved picture was drawn, as
    far as no field says it; held_part, held_told, usual: shown while there is such.
    """

    prompt: gr.Textbox
    seeds: gr.Textbox
    key: gr.Dropdown
    draw: gr.Button
    passphrase: gr.Textbox
    chips: gr.Radio
    view: gr.Radio
    grid: gr.HTML
    pair_part: gr.Row
    pair: gr.Radio
    seed: gr.Radio
    slider: gr.ImageSlider
    uncover: gr.Button
    hover: gr.HTML
    rival: gr.Dropdown
    guidance: gr.Textbox
    sampling: gr.Textbox
    picture: gr.File
    restoring: gr.State
    drawn: gr.State
    lacking: gr.State
    held: gr.State
    held_part: gr.Row
    held_told: gr.HTML
    usual: gr.Button

    @property
    def asked(self) -> list:
        """Inputs of `wait`, after the run's id."""
        return [self.prompt, self.seeds, self.key, self.rival, self.guidance, self.sampling, self.held]

    @property
    def shown(self) -> list:
        """Outputs of `show`."""
        return [self.grid, *self.two, self.pair, self.seed, self.drawn]

    @property
    def two(self) -> list:
        """Outputs of `two_pictures`."""
        return [self.slider, self.hover, self.uncover]

    @property
    def fields(self) -> list:
        """Outputs of `fields_of`."""
        return [self.prompt, self.key, self.chips, self.rival, self.passphrase]


def build_compare(studio: Studio) -> CompareStep:
    """Lay the step out."""
    heading(
        3,
        "Compare",
        "The same prompt and the same start noise, three times: before forgetting, after it, "
        "and after it with the key.",
    )
    with gr.Row(elem_classes="ask", equal_height=False):
        prompt = gr.Textbox(
            label="Prompt", elem_id="prompt", max_length=400, scale=5, min_width=240, max_lines=1
        )
        seeds = gr.Textbox(
            "0-3", label="Seeds", elem_id="seeds", max_length=80, scale=1, min_width=96, max_lines=1
        )
        key = gr.Dropdown(EVERY_KEY, value=OWN, label="Key", elem_id="key", scale=2, min_width=150)
        draw = gr.Button("Draw", variant="primary", elem_id="draw", scale=1, min_width=112)
    passphrase = gr.Textbox(
        label="Passphrase", info="This run’s key is sealed: this opens it for one drawing, and is not kept.",
        type="password", elem_id="key-passphrase", max_length=1000, visible=False,
    )  # fmt: skip
    with gr.Row(elem_classes="tries"):
        chips = gr.Radio([], label="Try", elem_id="prompt-chips", elem_classes="chips")
        view = gr.Radio(
            [GRID, SLIDER, HOVER],
            value=GRID,
            label="View",
            show_label=False,
            elem_id="compare-view",
            elem_classes="switch",
        )
    with gr.Row(elem_classes="tight", visible=False, elem_id="held") as held_part:
        held_told = gr.HTML()
        usual = gr.Button("Draw as usual", size="sm", scale=0, min_width=140, elem_id="as-usual")
    grid = gr.HTML(
        notice("No pictures yet", "Train a run in step 2, or choose one at the top."), elem_id="compare-grid"
    )
    with gr.Row(elem_classes="tight", visible=False) as pair_part:
        pair = gr.Radio([], label="Left ↔ right", elem_id="pair", elem_classes="chips")
        seed = gr.Radio([], label="Seed", elem_id="slider-seed", elem_classes="chips")
    slider = gr.ImageSlider(
        label="Drag the line",
        type="pil",
        format="png",
        interactive=False,
        max_height=512,
        buttons=["download", "fullscreen"],
        elem_id="slider",
        show_label=False,
        visible=False,
    )
    uncover = gr.Button("Sensitive pictures: show them", visible=False, elem_id="uncover")
    hover = gr.HTML(elem_id="hover", visible=False)
    with gr.Accordion("Another run, guidance, a saved picture", open=False, elem_classes="fold"):
        with gr.Row(elem_classes="settings", elem_id="compare-more"):
            rival = RunPicker(
                [("none", NO_RIVAL)],
                value=NO_RIVAL,
                label="Beside another run",
                info="another method or setting, same seeds",
                elem_id="rival",
                min_width=200,
            )
            guidance, sampling = (
                gr.Textbox(
                    "", label=label, info=info, placeholder="recommended", max_lines=1, max_length=24,
                    elem_id=name, min_width=120,
                )
                for name, label, info in (
                    ("guidance", "Guidance", "how closely the prompt is followed"),
                    ("sampling", "Sampling steps", "more take longer"),
                )
            )  # fmt: skip
        picture = gr.File(
            label="A PNG saved here brings its settings back",
            file_types=[".png"],
            type="binary",
            height=152,
            elem_id="restore",
        )
    return CompareStep(
        prompt, seeds, key, draw, passphrase, chips, view, grid, pair_part, pair, seed, slider, uncover,
        hover, rival, guidance, sampling, picture, gr.State(None), gr.State(None), gr.State(0),
        gr.State(None), held_part, held_told, usual,
    )  # fmt: skip


def wire_compare(page: Page, step: CompareStep, tab: gr.Tab) -> None:
    """Connect the step: another run shows its kept sheet at once; Draw makes a new one."""
    studio = page.studio

    @plainly
    def other_run(run_id, key, pair, view, restoring):
        fields = fields_of(studio, run_id, key, again=restoring == run_id)
        shown = [gr.skip()] * len(step.shown) if restoring == run_id else kept(studio, run_id, pair, view)
        return [*fields, *shown, None, *(holding(None) if restoring != run_id else [gr.skip()] * 3)]

    @plainly
    def wait(run_id, prompt, seeds, key, rival, guidance, sampling, held):
        run = studio.run(run_id)
        checked(studio, run, prompt)
        if "recovered" in drawable(run, key):
            keyed(studio, run, key)
        asked = (run_id, prompt, seeds_from(seeds), key, rival, config_from(guidance, sampling, held))
        rows = run.method.variants + (rival_of(studio, run, rival).method.variants[1:] if rival else ())
        return skeleton(rows, seeds_from(seeds)), asked

    @plainly
    def back(drawn):
        return grid_html(studio, drawn) if drawn else notice("Nothing drawn", "Press Draw to try again.")

    @plainly
    def draw(picked, question, passphrase, progress=gr.Progress()):  # noqa: B008
        """Sheets of what was asked last, as the fields were then; None where another run was chosen since."""
        if not question or question[0] != picked:
            return None
        run_id, prompt, seeds, key, rival, config = question
        return draw_both(
            studio, studio.run(run_id), prompt, seeds, key, rival, config,
            lambda i, n: progress((i, n), desc="drawing"), passphrase,
        )  # fmt: skip

    @plainly
    def place(run_id, question, fresh, drawn, pair, view):
        """What was drawn, in the view that is looked at by now; of a run chosen before: what stood there."""
        if fresh and fresh[0].run_id == run_id:
            return show(studio, fresh, pair, view)
        if question and question[0] == run_id:  # is being drawn
            return [gr.skip()] * len(step.shown)
        stood = drawn and drawn[0].run_id == run_id
        return show(studio, drawn, pair, view) if stood else kept(studio, run_id, pair, view)

    @plainly
    def tab_opened(run_id, prompt, seeds, key, pair, view, drawn):
        if not run_id:
            return [gr.skip()] * (len(step.shown) + 3)
        run, typed = studio.run(run_id), prompt
        prompt = prompt or first_prompt(run)  # the step may open before its fields are filled
        shown, lacks = opening(studio, run, prompt, seeds, key, pair, view, drawn)
        field = gr.Textbox(visible=has_sealed_key(run))
        return [*shown, field, gr.skip() if typed else prompt, time.time_ns() if lacks else gr.skip()]

    @plainly
    def two(drawn, pair, seed, view):
        return two_pictures(studio, drawn, pair, seed, view)

    @plainly
    def switch(drawn, pair, seed, view):
        shown = [
            gr.HTML(visible=view == GRID),
            gr.Row(visible=view != GRID),
            gr.Radio(visible=view == SLIDER),
        ]
        slider, hover, uncover = (
            two_pictures(studio, drawn, pair, seed, view) if drawn else (None, "", gr.Button(visible=False))
        )
        slider = gr.ImageSlider(**({} if slider is None else {"value": slider}), visible=view == SLIDER)
        return [*shown, slider, gr.HTML(hover, visible=view == HOVER), uncover]

    @plainly
    def bare(drawn, pair, seed):
        return slider_value(studio, drawn, pair, seed, bare=True)[0], gr.Button(visible=False)

    @plainly
    def restore(data, run_id):
        *found, held = restored(studio, data, run_id)
        gr.Info(f"“{found[1]}”, seed {found[2]}", title="Settings are back")
        own = models.own_side(studio.pipe(studio.run(found[0]).config.model))
        return [*found, found[0], None, *holding(held, own)]

    def holding(held, own=0) -> list:
        said = f'<p class="fine">{escape(held_in_words(held, own))}</p>' if held else ""
        return [held, gr.Row(visible=bool(held)), said]

    looks = [step.pair, step.view]
    holds = [step.held, step.held_part, step.held_told]
    step.usual.click(lambda: holding(None), None, holds, **QUIET)
    page.picked.then(
        other_run,
        [page.picker, step.key, *looks, step.restoring],
        [*step.fields, *step.shown, step.restoring, *holds],
        **NEWEST,
        **SOFT,
    )
    fresh, question = (gr.State(None, time_to_live=3600) for _ in range(2))
    waiting = [wait, [page.picker, *step.asked], [step.grid, question]]
    every = {"trigger_mode": "multiple", **SOFT}  # a second press counts, however soon
    seen = [step.grid, step.slider, step.hover]
    drawing = {"show_progress_on": seen, "api_visibility": "private", **NEWEST, **GPU}
    chosen = step.chips.input(lambda text: text, step.chips, step.prompt, **QUIET)
    fields = [page.picker, step.prompt, step.seeds, step.key, step.guidance, step.sampling]
    dropped = step.picture.upload(
        restore, [step.picture, page.picker], [*fields, step.restoring, step.picture, *holds], **SOFT
    )
    for started in (
        gr.on([step.draw.click, step.prompt.submit, step.passphrase.submit], *waiting, **every),
        chosen.then(*waiting, **every),
        step.rival.input(*waiting, **every),
        dropped.success(*waiting, **every),
        whenever(step.lacking.change).then(*waiting, **every),
    ):
        made = started.success(draw, [page.picker, question, step.passphrase], fresh, **drawing)
        made.success(place, [page.picker, question, fresh, step.drawn, *looks], step.shown, **NEWEST, **SOFT)
        made.failure(back, step.drawn, step.grid, **SOFT)
    opened = [page.picker, step.prompt, step.seeds, step.key, *looks, step.drawn]
    tab.select(tab_opened, opened, [*step.shown, step.passphrase, step.prompt, step.lacking], **SOFT)
    views = [step.grid, step.pair_part, step.seed, *step.two]
    two_of = [step.drawn, step.pair, step.seed, step.view]
    step.view.change(switch, two_of, views, **SOFT)
    gr.on([step.pair.input, step.seed.input], two, two_of, step.two, **NEWEST, **SOFT)
    step.uncover.click(bare, two_of[:3], [step.slider, step.uncover], **SOFT)
