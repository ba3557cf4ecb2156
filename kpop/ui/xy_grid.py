"""X/Y grid of step 3: one variant, over two of seed, prompt, guidance, sampling steps, run, lambda and k."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import gradio as gr
from PIL import Image

from .. import generation
from ..alike_runs import VARIED, Alike, find_alike
from ..config import GenerationConfig
from ..errors import InputError, RunError
from .boundary import plainly
from .compare import CompareStep
from .compare_views import veiled
from .page import GPU, NEWEST, QUIET, SOFT, Page
from .pictures import TITLES, Layer, blank, framed, sheet
from .questions import rivals
from .run_picker import told_apart
from .settings import number
from .sheets import checked, drawable, keyed, opened, unopened
from .studio import Studio, seeds_from, visitor
from .xy_trainings import missing, missing_html, train_missing, waiting_word

MOST = 8  # values of an axis
MOST_CELLS = 36
AXES = {
    "seed": ("seeds", "0-3"),
    "prompt": ("prompts, with a bar between", "a church | a castle"),
    "guidance": ("guidance", "1, 2, 4, 8"),
    "steps": ("sampling steps", "5, 10, 25"),
    "run": ("runs", ""),
    "lambda": ("lambdas", "0.3, 1, 3"),
    "k": ("sizes of the key", "1, 2, 4"),
}
WHOLE = ("steps", "k")
NAMES = [("Seed", "seed"), ("Prompt", "prompt"), ("Guidance", "guidance"), ("Sampling steps", "steps")]
NAMES += [("Run", "run"), ("Lambda (recovery weight)", "lambda"), ("k (size of the key)", "k")]


@dataclass(frozen=True)
class Axis:
    """What changes along one side: kind is a key of AXES; titles: one a value."""

    kind: str
    values: tuple
    titles: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """What one picture is drawn with. found: the run, or why there is none yet; None for the usual."""

    found: Alike
    prompt: str
    seed: int
    guidance: float | None = None
    steps: int | None = None

    @property
    def call(self) -> tuple:
        """Cells in which it is the same are drawn by one call of generate."""
        return (self.found.done and self.found.done.id, self.guidance, self.steps)


@dataclass(frozen=True)
class XyStep:
    """Components of the fold. train is None on a read-only app."""

    across: gr.Dropdown
    across_values: gr.Textbox
    down: gr.Dropdown
    down_values: gr.Textbox
    runs: gr.Dropdown
    variant: gr.Radio
    draw: gr.Button
    train: gr.Button | None
    note: gr.HTML
    grid: gr.HTML

    @property
    def view(self) -> list:
        """Outputs of a drawing."""
        return [self.grid, self.note, *([self.train] if self.train else [])]


def build_xy(studio: Studio) -> XyStep:
    """Lay the fold out."""
    train = None
    with gr.Accordion("X/Y grid", open=False, elem_classes="fold", elem_id="xy"):
        gr.HTML('<p class="fine">What no axis names is taken from above; of several seeds, the first.</p>')
        with gr.Row(elem_classes="settings"):
            across = gr.Dropdown(NAMES, value="guidance", label="Across", elem_id="xy-across", min_width=160)
            across_values = gr.Textbox(
                AXES["guidance"][1], label="Values across", elem_id="xy-across-values", max_length=800
            )
            down = gr.Dropdown(NAMES, value="seed", label="Down", elem_id="xy-down", min_width=160)
            down_values = gr.Textbox(
                AXES["seed"][1], label="Values down", elem_id="xy-down-values", max_length=800
            )
            runs = gr.Dropdown(
                [], multiselect=True, label="Runs", elem_id="xy-runs", visible=False, max_choices=MOST
            )
        with gr.Row(elem_classes="tight"):
            variant = gr.Radio(
                [(title, name) for name, title in TITLES.items() if name != "kept"],
                value="sanitized", label="Model", elem_id="xy-variant", elem_classes="chips",
            )  # fmt: skip
            draw = gr.Button("Draw the grid", elem_id="xy-draw", scale=0, min_width=160)
            if not studio.read_only:
                train = gr.Button("Train", visible=False, elem_id="xy-train", scale=0, min_width=220)
        note = gr.HTML(elem_id="xy-note")
        grid = gr.HTML(elem_id="xy-grid")
    return XyStep(across, across_values, down, down_values, runs, variant, draw, train, note, grid)


def wire_xy(page: Page, step: XyStep, compare: CompareStep) -> None:
    """Connect the fold; prompt, seeds and key are those of the step above."""
    studio = page.studio

    @plainly
    def axes_chosen(across, down, run_id):
        fields = [
            gr.Textbox(value=AXES[kind][1], visible=kind != "run") for kind in (across, down) if kind in AXES
        ]
        both = [studio.run(run_id)] if run_id else []
        both += rivals(studio, both[0]) if both else []
        offered = list(zip(told_apart(both), [run.id for run in both], strict=True))
        chosen = [run_id] if run_id else []
        shown = "run" in (across, down)
        return [*fields, gr.Dropdown(choices=offered, value=chosen, visible=shown)]

    @plainly
    def draw(
        run_id, prompt, seeds, key, passphrase, across, across_values, down, down_values, runs, variant,
        progress=gr.Progress(),  # noqa: B008
    ):  # fmt: skip
        run, axes, cells = asked_for(run_id, prompt, seeds, across, across_values, down, down_values, runs)
        images = draw_grid(
            studio, run, key, variant, cells, lambda i, n: progress((i, n), desc="drawing"), passphrase
        )
        found = [cell.found for row in cells for cell in row]
        left = len(missing(found))
        offer = gr.Button(visible=left > 0, value=f"Train the {left} missing" if left > 1 else "Train it")
        html = grid_html(studio, run, variant, *axes, cells, images, prompt)
        return run.id, [html, missing_html(studio, found), offer][: len(step.view)]

    @plainly
    def place(run_id, fresh):
        """What was drawn; not of a run chosen before."""
        return fresh[1] if fresh and fresh[0] == run_id else [gr.skip()] * len(step.view)

    @plainly
    def train(
        run_id, prompt, seeds, key, passphrase, across, across_values, down, down_values, runs, variant,
        request: gr.Request,
    ):  # fmt: skip
        args = run_id, prompt, seeds, across, across_values, down, down_values, runs
        run, _, cells = asked_for(*args)
        found = [cell.found for row in cells for cell in row]
        queued, why = train_missing(studio, run, found, visitor(request))
        left = len(missing(found)) - len(queued)
        told = "They train in the background, one after another: see step 2."
        gr.Info(f"{told} {left} could not be queued. {why}" if left else told, title=f"Queued: {len(queued)}")
        _, _, cells = asked_for(*args)
        note = missing_html(studio, [cell.found for row in cells for cell in row])
        return note, gr.Button(visible=left > 0)

    def asked_for(run_id, prompt, seeds, across, across_values, down, down_values, runs):
        run = studio.run(run_id)
        axes = [
            axis(studio, run, kind, values, runs)
            for kind, values in ((across, across_values), (down, down_values))
        ]
        return run, axes, cells_of(studio, run, prompt, seeds_from(seeds)[0], *axes)

    gr.on(
        [step.across.input, step.down.input],
        axes_chosen,
        [step.across, step.down, page.picker],
        [step.across_values, step.down_values, step.runs],
        **QUIET,
    )

    def clear():
        return ["", "", gr.Button(visible=False)][: len(step.view)]

    page.picked.then(clear, None, step.view, **NEWEST, **SOFT)
    asked = [page.picker, compare.prompt, compare.seeds, compare.key, compare.passphrase]
    asked += [step.across, step.across_values, step.down, step.down_values, step.runs, step.variant]
    fresh = gr.State(None)
    step.draw.click(
        draw, asked, fresh, show_progress_on=step.grid, api_visibility="private", **NEWEST, **GPU
    ).success(place, [page.picker, fresh], step.view, **NEWEST, **SOFT)
    if step.train is not None:
        step.train.click(train, asked, [step.note, step.train], api_visibility="private")


def axis(studio: Studio, run, kind: str, text: str, run_ids: Sequence[str] | None) -> Axis:
    """An axis from what was typed, or from the chosen runs. Raises InputError in words."""
    if kind == "run":
        chosen = [studio.run(run_id) for run_id in run_ids or ()]
        if any(other.config.model != run.config.model for other in chosen):
            raise InputError("Only runs of one base model go into one grid.")
        values, titles = tuple(chosen), tuple(told_apart(chosen))
    elif kind == "prompt":
        values = titles = tuple(part.strip() for part in str(text).split("|") if part.strip())
    elif kind == "seed":
        values = tuple(seeds_from(text, MOST))
        titles = tuple(f"seed {seed}" for seed in values)
    elif kind in AXES:
        parts = [part.strip() for part in str(text).replace(";", ",").split(",") if part.strip()]
        values = tuple(number(AXES[kind][0].capitalize(), part, whole=kind in WHOLE) for part in parts)
        titles = tuple(f"{kind} {value:g}" for value in values)
    else:
        raise InputError(f"An axis is one of {', '.join(AXES)}.")
    if not values or len(values) > MOST or len(set(titles)) < len(titles):
        raise InputError(f"Write 1 to {MOST} different {AXES[kind][0]} for the axis.")
    return Axis(kind, values, titles)


def cells_of(studio: Studio, run, prompt: str, seed: int, across: Axis, down: Axis) -> list[list[Cell]]:
    """What each picture is of, rows `down` by columns `across`. Raises InputError."""
    if across.kind == down.kind:
        raise InputError("Choose two different axes.")
    if len(across.values) * len(down.values) > MOST_CELLS:
        raise InputError(f"At most {MOST_CELLS} pictures in one grid. Take fewer values.")
    every = studio.all_runs()
    usual = {"run": run, "prompt": prompt, "seed": seed}

    def cell(told: dict) -> Cell:
        its = told.pop("run")
        changes = {kind: told.pop(kind) for kind in VARIED if kind in told}
        found = find_alike(its, changes, every) if changes else Alike(its.config, its)
        return Cell(found, **told)

    return [[cell({**usual, down.kind: y, across.kind: x}) for x in across.values] for y in down.values]


def draw_grid(
    studio: Studio, run, key: str, variant: str, rows: Sequence[Sequence[Cell]],
    on_step: Callable | None = None, passphrase: str | None = "",
) -> list[list[Image.Image | None]]:  # fmt: skip
    """A picture a cell, None where its run is not there yet. passphrase: of `run`, where its key is sealed.

    Raises InputError and what drawing raises.
    """
    cells = [cell for row in rows for cell in row if cell.found.done is not None]
    studio.limits().check_pictures(len(cells), max((cell.steps or 0 for cell in cells), default=0))
    groups: dict[tuple, list[Cell]] = {}  # what one call of generate draws: all its prompts by all its seeds
    for cell in cells:
        groups.setdefault(cell.call, []).append(cell)
    found: dict[tuple, Image.Image] = {}
    for number_, (group, members) in enumerate(groups.items()):
        its, prompts = members[0].found.done, list(dict.fromkeys(cell.prompt for cell in members))
        pipe = [checked(studio, its, text) for text in prompts][0]
        told = on_step and (lambda i, n, done=number_: on_step(done * n + i, len(groups) * n))
        seeds = list(dict.fromkeys(cell.seed for cell in members))
        config = GenerationConfig(guidance_scale=group[1], steps=group[2])
        own = {}
        if variant != "original":
            its = opened(studio, its, passphrase if its.id == run.id else "")
            if variant in its.method.variants and variant not in drawable(its, key):
                raise RunError(unopened(its, ()))
            own = {"run": its, **(keyed(studio, its, key) if variant == "recovered" else {})}
        with studio.turn():
            images = generation.generate(pipe, prompts, seeds, variant, config=config, on_step=told, **own)
        where = [(*group, text, one) for text in prompts for one in seeds]
        found |= dict(zip(where, images, strict=True))
    return [[found.get((*cell.call, cell.prompt, cell.seed)) for cell in row] for row in rows]


def grid_html(
    studio: Studio, run, variant: str, across: Axis, down: Axis, rows: Sequence[Sequence[Cell]],
    drawn: Sequence[Sequence[Image.Image | None]], prompt: str = "",
) -> str:  # fmt: skip
    """The grid with the judge's word under each picture, and what is missing where there is none.

    prompt: of all cells, where no axis names one.
    """
    told = []
    for title, cells, images in zip(down.titles, rows, drawn, strict=True):
        there = [image for image in images if image is not None]
        said = iter(studio.verdicts(there, run.config))
        shown = [
            framed(image, variant, f"{variant}, {title}, {head}", next(said))
            if image is not None
            else blank(waiting_word(cell.found), waiting=cell.found.going is not None)
            for cell, image, head in zip(cells, images, across.titles, strict=True)
        ]
        told.append((Layer(variant, title, ""), shown))
    runs = [run, *(its for side in (across, down) if side.kind == "run" for its in side.values)]
    grid = sheet(told, list(across.titles), f"{TITLES[variant]}: {down.kind} by {across.kind}")
    prompts = [text for side in (across, down) if side.kind == "prompt" for text in side.values]
    return veiled(runs, prompts or [prompt], grid)
