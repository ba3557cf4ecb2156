"""Step 3: the same prompt and seeds before forgetting, after it, and with the key."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from ..errors import RunError
from ..kept import FIRST_SEEDS, OWN, Sheet, first_prompt, phrase
from .boundary import plainly
from .concepts import names_of
from .page import GPU, QUIET, SOFT, Page, heading
from .pictures import blank, enlarge, notice, sheet
from .run_picker import concept_names, has_result, subject
from .sheets import checked, draw_sheet, key_choices, key_value, saved_sheet, sheet_html
from .studio import Studio, seeds_from

GRID, SLIDER = "All pictures", "Slide between two"
PAIRS = {
    "Original ↔ Sanitized": ("original", "sanitized"),
    "Original ↔ Recovered": ("original", "recovered"),
    "Sanitized ↔ Recovered": ("sanitized", "recovered"),
}


@dataclass(frozen=True)
class CompareStep:
    """Components of the step; `drawn` holds this visitor's last sheet."""

    prompt: gr.Textbox
    seeds: gr.Textbox
    key: gr.Dropdown
    draw: gr.Button
    chips: gr.Radio
    view: gr.Radio
    grid: gr.HTML
    slider_part: gr.Column
    pair: gr.Radio
    seed: gr.Radio
    slider: gr.ImageSlider
    drawn: gr.State

    @property
    def shown(self) -> list:
        """Outputs of `show`."""
        return [self.grid, self.slider, self.seed, self.drawn]


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
        key = gr.Dropdown(
            [("its own key", OWN)], value=OWN, label="Key", elem_id="key", scale=2, min_width=150
        )
        draw = gr.Button("Draw", variant="primary", elem_id="draw", scale=1, min_width=112)
    with gr.Row(elem_classes="tries"):
        chips = gr.Radio([], label="Try", elem_id="prompt-chips", elem_classes="chips")
        view = gr.Radio(
            [GRID, SLIDER],
            value=GRID,
            label="View",
            show_label=False,
            elem_id="compare-view",
            elem_classes="switch",
        )
    grid = gr.HTML(
        notice("No pictures yet", "Train a run in step 2, or choose one at the top."), elem_id="compare-grid"
    )
    with gr.Column(visible=False, elem_id="slider-part", elem_classes="slider-part") as slider_part:
        with gr.Row(elem_classes="tight"):
            pair = gr.Radio(
                list(PAIRS),
                value=next(iter(PAIRS)),
                label="Left ↔ right",
                elem_id="pair",
                elem_classes="chips",
            )
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
        )
    return CompareStep(
        prompt, seeds, key, draw, chips, view, grid, slider_part, pair, seed, slider, gr.State(None)
    )


def wire_compare(page: Page, step: CompareStep, tab: gr.Tab) -> None:
    """Connect the step: another run shows its kept sheet at once; Draw makes a new one."""
    studio = page.studio
    asked = [page.picker, step.prompt, step.seeds, step.key, step.pair]

    @plainly
    def other_run(run_id, pair):
        return [*fields_of(studio, run_id, pair), *kept(studio, run_id, pair)]

    @plainly
    def wait(run_id, prompt, seeds, key):
        run = studio.run(run_id)
        checked(studio, run, prompt)
        key_value(run, key)
        return skeleton(run.method.variants, seeds_from(seeds))

    @plainly
    def back(drawn, run_id):
        if isinstance(drawn, Sheet):
            return sheet_html(studio, drawn, studio.run(drawn.run_id))
        return notice("Nothing drawn", "Press Draw to try again.")

    @plainly
    def draw(run_id, prompt, seeds, key, pair, progress=gr.Progress()):  # noqa: B008
        run = studio.run(run_id)
        drawn = draw_sheet(
            studio, run, prompt, seeds_from(seeds), key, lambda i, n: progress((i, n), desc="drawing")
        )
        return show(studio, drawn, run, pair)

    @plainly
    def tab_opened(run_id, prompt, seeds, key, pair, drawn, progress=gr.Progress()):  # noqa: B008
        if run_id is None or (isinstance(drawn, Sheet) and drawn.run_id == run_id):
            return [gr.skip()] * 4
        run = studio.run(run_id)
        if not has_result(run):
            return kept(studio, run_id, pair)
        prompt = prompt or first_prompt(run)  # the step may open before its fields are filled
        found = saved_sheet(run, prompt, seeds_from(seeds), key)
        if found is None and studio.quick(run.config.model):
            found = draw_sheet(
                studio, run, prompt, seeds_from(seeds), key, lambda i, n: progress((i, n), desc="drawing")
            )
        return show(studio, found, run, pair) if found else kept(studio, run_id, pair)

    @plainly
    def slide(drawn, pair, seed):
        return slider_value(drawn, pair, seed)

    @plainly
    def switch(view):
        return gr.HTML(visible=view == GRID), gr.Column(visible=view == SLIDER)

    fields = [step.prompt, step.key, step.chips, step.pair]
    page.picker.change(other_run, [page.picker, step.pair], [*fields, *step.shown], **SOFT)
    drawing = {"outputs": step.shown, "show_progress_on": step.grid, "api_visibility": "private", **GPU}
    first = [page.picker, step.prompt, step.seeds, step.key]
    chosen = step.chips.input(lambda text: text, step.chips, step.prompt, **QUIET)
    for started in (
        gr.on([step.draw.click, step.prompt.submit], wait, first, step.grid, **SOFT),
        chosen.then(wait, first, step.grid, **SOFT),
    ):
        drawn = started.success(draw, asked, **drawing)
        drawn.failure(back, [step.drawn, page.picker], step.grid, **SOFT)
    tab.select(tab_opened, [*asked, step.drawn], **drawing)
    step.view.change(switch, step.view, [step.grid, step.slider_part], **QUIET)
    gr.on([step.pair.input, step.seed.input], slide, [step.drawn, step.pair, step.seed], step.slider, **SOFT)


def fields_of(studio: Studio, run_id: str | None, pair: str) -> list:
    """Prompt, key, chips and the slider's pairs for a run; the pair stays where the run has it."""
    if not run_id:
        return [gr.skip()] * 4
    run = studio.run(run_id)
    tries = [phrase(name) for name in (*concept_names(run)[:4], *names_of(list(run.config.retain))[:5])]
    tries = list(dict.fromkeys(tries))
    prompt = first_prompt(run)
    pairs = [name for name, both in PAIRS.items() if set(both) <= set(run.method.variants)]
    return [
        prompt,
        gr.Dropdown(choices=key_choices(run), value=OWN),
        gr.Radio(choices=tries, value=prompt),
        gr.Radio(choices=pairs, value=pair if pair in pairs else pairs[0]),
    ]


def kept(studio: Studio, run_id: str | None, pair: str) -> list:
    """The sheet kept for a run's first prompt, or what to do to get one."""
    if not run_id:
        return [
            notice("No pictures yet", "Train a run in step 2, or choose one at the top."),
            None,
            gr.skip(),
            None,
        ]
    run = studio.run(run_id)
    found = saved_sheet(run, first_prompt(run), FIRST_SEEDS)
    if found:
        return show(studio, found, run, pair)
    if not has_result(run):
        text = "When it is done, or stopped and kept, its pictures are drawn here."
        return [notice(f"“{subject(run)}” is not forgotten yet", text), None, gr.skip(), None]
    return [notice("Nothing drawn for this run yet", "Press Draw."), None, gr.skip(), None]


def show(studio: Studio, drawn: Sheet, run, pair: str) -> list:
    """Outputs for a sheet: grid, slider, seeds of the slider, the sheet itself."""
    seeds = [f"{seed}" for seed in drawn.seeds]
    return [
        sheet_html(studio, drawn, run),
        slider_value(drawn, pair, seeds[0]),
        gr.Radio(choices=seeds, value=seeds[0]),
        drawn,
    ]


def slider_value(drawn: Sheet | None, pair: str, seed: str | None):
    """Two pictures of one seed for the slider."""
    if not isinstance(drawn, Sheet):
        raise RunError("Draw pictures first.")
    left, right = PAIRS.get(pair, ("original", "sanitized"))
    if not {left, right} <= set(drawn.images):  # the pair of another run, which has a key
        left, right = "original", "sanitized"
    at = [f"{value}" for value in drawn.seeds].index(seed) if seed in [f"{v}" for v in drawn.seeds] else 0
    return enlarge(drawn.images[left][at], 512), enlarge(drawn.images[right][at], 512)


def skeleton(variants: tuple[str, ...], seeds: list[int]) -> str:
    """The grid's final size before its pictures are there."""
    rows = [(variant, [blank("…", True) for _ in seeds]) for variant in variants]
    return sheet(rows, [f"seed {seed}" for seed in seeds], "drawing")
