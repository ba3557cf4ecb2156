"""Step 2: start a run, watch it learn to forget, stop it, go on with it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial

import gradio as gr

from .. import jobs, models, presets
from ..errors import RunError
from ..key_sealing import copies
from ..run_texts import all_texts
from . import run_samples, run_view
from .boundary import plainly
from .concepts import ConceptsStep, names_of
from .page import NEWEST, QUIET, SOFT, Page, clicked, heading, row_click, whenever
from .pulse import Pulse
from .recipes import fields_like, lost_in, memories, recipe_texts
from .run_picker import choices, first_choice, subject
from .settings import build_settings, config_from
from .studio import Studio, visitor


@dataclass(frozen=True)
class TrainStep:
    """Components of the step; `seen` remembers what this visitor's page shows already."""

    recipe: gr.HTML | None
    start: gr.Button | None
    paper_note: gr.HTML | None
    paper: gr.Button | None
    settings: list
    card: gr.HTML
    stop: gr.Button | None
    resume: gr.Button | None
    clone: gr.Button | None
    fold: gr.Accordion | None
    delete: gr.Button | None
    really: gr.Row | None
    delete_yes: gr.Button | None
    delete_no: gr.Button | None
    onward: gr.Button
    charts: gr.HTML
    scrub: gr.Slider
    now: gr.HTML
    strip: gr.HTML
    table: gr.HTML
    seen: gr.State

    @property
    def controls(self) -> list:
        """Outputs of run_view.controls."""
        return [
            self.onward,
            *([self.stop, self.resume, self.clone, self.delete, self.really] if self.stop else []),
        ]

    @property
    def state(self) -> list:
        """What an action on the run changes at once."""
        return [self.card, self.charts, *self.controls]


def build_train(studio: Studio) -> TrainStep:
    """Lay the step out; without the buttons on a read-only app."""
    recipe = start = paper_note = paper = stop = resume = clone = fold = None
    delete = really = delete_yes = delete_no = None
    fields: list = []
    heading(2, "Train", "The run goes on in the background. You may close this page and come back.")
    if not studio.read_only:
        with gr.Row(elem_classes="pair", equal_height=True):
            with gr.Column(elem_classes="card recipe lead", min_width=300):
                recipe = gr.HTML(elem_id="recipe")
                start = gr.Button("Forget it", variant="primary", elem_id="train-default")
            with gr.Column(elem_classes="card recipe", min_width=300):
                paper_note = gr.HTML(elem_id="paper-note")
                paper = gr.Button("Paper's settings", elem_id="train-paper")
        with gr.Accordion("All settings", open=False, elem_classes="fold", elem_id="all-settings") as fold:
            gr.HTML(
                '<p class="fine">What stands here replaces the value of either button; '
                "an empty field takes what the model needs.</p>"
            )
            fields = build_settings()
    card = gr.HTML(elem_id="run-card")
    with gr.Row(elem_classes="tight"):
        if not studio.read_only:
            stop = gr.Button("Stop and keep", visible=False, elem_id="stop-run", scale=0, min_width=160)
            resume = gr.Button("Resume", visible=False, elem_id="resume-run", scale=0, min_width=160)
        onward = gr.Button(
            "Compare the pictures →", visible=False, elem_id="to-compare", scale=0, min_width=220
        )
        if not studio.read_only:
            clone = gr.Button("New run like this", visible=False, elem_id="clone-run", scale=0, min_width=180)
            delete = gr.Button("Delete this run", visible=False, elem_id="delete-run", scale=0, min_width=160)
    if not studio.read_only:
        with gr.Row(visible=False, elem_classes="tight", elem_id="really-delete") as really:
            gr.HTML("<p>Its pictures, weights and key go for good.</p>")
            delete_yes = gr.Button("Delete it, key included", variant="stop", elem_id="delete-yes", scale=0)
            delete_no = gr.Button("Keep it", elem_id="delete-no", scale=0)
    now = gr.HTML(elem_id="sample-now")
    scrub = gr.Slider(
        1,
        2,
        value=1,
        step=1,
        label="Sample shown, first to last (drag; same seed)",
        visible=False,
        elem_id="scrub",
        buttons=[],
    )
    charts = gr.HTML(elem_id="charts")
    strip = gr.HTML(elem_id="strip")
    gr.HTML('<h3 class="section">Runs</h3>')
    table = gr.HTML(elem_id="runs", js_on_load=row_click("run"))
    return TrainStep(
        recipe,
        start,
        paper_note,
        paper,
        fields,
        card,
        stop,
        resume,
        clone,
        fold,
        delete,
        really,
        delete_yes,
        delete_no,
        onward,
        charts,
        scrub,
        now,
        strip,
        table,
        gr.State({}),
    )


def wire_train(page: Page, step: TrainStep, words: ConceptsStep, tab: gr.Tab, pulse: Pulse, load) -> None:
    """Connect buttons, the parts that the pulse calls for, and the choice of another run."""
    studio = page.studio

    def chosen_run(run_id):
        try:
            return studio.run(run_id)
        except RunError:
            return None

    @plainly
    def progress(run_id):
        return run_view.progress(studio, chosen_run(run_id))

    @plainly
    def controls(run_id):
        found = run_view.controls(studio, chosen_run(run_id))
        return found if len(found) > 1 else found[0]

    @plainly
    def strip(run_id, seen):
        return run_samples.strip_view(studio, chosen_run(run_id), seen)

    @plainly
    def samples(run_id, seen):
        return run_samples.samples_view(studio, chosen_run(run_id), seen)

    @plainly
    def table():
        return run_view.runs_table(studio.all_runs())

    def state_now(run_id):
        run = chosen_run(run_id)
        return [*run_view.progress(studio, run), *run_view.controls(studio, run)]

    @plainly
    def scrubbed(run_id, place, seen):
        run = studio.run(run_id)
        step = run_samples.step_at(run, place)
        return run_samples.samples_at(studio, run, step), {**(seen or {}), "shown": step}

    @plainly
    def opened(event: gr.EventData):
        return studio.run(clicked(event, "run")).id

    pulse.progress.change(progress, page.picker, [step.card, step.charts], **QUIET)
    pulse.controls.change(controls, page.picker, step.controls, **QUIET)
    pulse.samples.change(strip, [page.picker, step.seen], step.strip, **QUIET).then(
        samples, [page.picker, step.seen], [step.scrub, step.now, step.seen], **NEWEST, **QUIET
    )
    pulse.table.change(table, None, step.table, **QUIET)
    step.scrub.input(
        scrubbed,
        [page.picker, step.scrub, step.seen],
        [step.now, step.seen],
        **NEWEST,
        **QUIET,
    )
    step.table.click(opened, None, page.picker, **SOFT)
    step.onward.click(lambda: gr.Tabs(selected=3), None, page.tabs, **QUIET)
    if studio.read_only:
        return

    chosen = [words.forget, words.keep, words.neutral, words.preset]

    def begin(paper: bool):
        @plainly
        def start(forget, keep, neutral, preset, request: gr.Request, *values):
            run = start_run(studio, forget, keep, neutral, preset, paper, values, visitor(request))
            gr.Info(
                "You may close this page; the run goes on.", title=f"Forgetting {', '.join(names_of(forget))}"
            )
            return gr.Dropdown(choices=choices(studio.all_runs()), value=run.id)

        return start

    step.start.click(begin(False), [*chosen, *step.settings], page.picker, api_visibility="private")
    step.paper.click(begin(True), [*chosen, *step.settings], page.picker, api_visibility="private")

    @plainly
    def stop(run_id, request: gr.Request):
        owned(studio, run_id, request)
        jobs.stop(studio.run(run_id))
        return state_now(run_id)

    @plainly
    def resume(run_id, request: gr.Request):
        owned(studio, run_id, request)
        gr.Info(studio.resume(studio.run(run_id)), title="Resumed")
        return state_now(run_id)

    @plainly
    def remove(run_id, request: gr.Request):
        owned(studio, run_id, request)
        run = studio.run(run_id)
        holders = copies(run, studio.all_runs())
        jobs.delete(run)
        if holders:
            held = ", ".join(subject(other) for other in holders)
            gr.Warning(f"Runs that went on from it hold a copy of its key: {held}.", title="Deleted")
        else:
            gr.Info(f"{subject(run)}: deleted, key included.", title="Deleted")
        left = studio.all_runs()
        return gr.Dropdown(choices=choices(left), value=first_choice(left)), gr.Row(visible=False)

    @plainly
    def like(run_id):
        run = studio.run(run_id)
        known = run.config if studio.may_train_again(run) else replace(run.config, seed=None)
        found = fields_like(studio, known)
        told = "Its words and settings are filled in. Change what you like, then press Forget."
        lost = lost_in(studio, run.config, found)
        if lost:
            gr.Warning(f"No field here holds these of its settings: {'; '.join(lost)}.", title="Not the same")
        gr.Info(told, title=subject(run))
        return [*found, gr.Accordion(open=True), [found[0], None]]  # its list is kept with other words, too

    filled = [*chosen, *step.settings, step.fold, words.filled]
    step.clone.click(like, page.picker, filled, api_visibility="private")
    step.delete.click(lambda: gr.Row(visible=True), None, step.really, **QUIET)
    step.delete_no.click(lambda: gr.Row(visible=False), None, step.really, **QUIET)
    step.delete_yes.click(remove, page.picker, [page.picker, step.really], api_visibility="private")
    step.stop.click(stop, page.picker, step.state, api_visibility="private")
    step.resume.click(resume, page.picker, step.state, api_visibility="private")

    @plainly
    def recipes(forget, keep, neutral, preset, *values):
        return recipe_texts(studio, forget, keep, neutral, preset, values)

    @plainly
    def needs(forget, keep, neutral, preset, *values):
        asked = memories(studio, forget, keep, neutral, preset, values)
        for learn in (partial(studio.pace, measure=True), *asked):
            learn()
            yield time.time_ns()  # what the words are by now is for `recipes` to tell

    texts = [step.recipe, step.paper_note, step.start, step.paper]
    asked, set_anew = [*chosen, *step.settings], [field.change for field in step.settings]
    load.then(recipes, asked, texts, **QUIET)
    learned = gr.State(0)
    whenever(words.forget.change, words.keep.change, *set_anew, learned.change).then(
        recipes, asked, texts, **NEWEST, **QUIET
    )
    whenever(tab.select, *set_anew).then(
        needs, asked, learned, concurrency_id="estimate", concurrency_limit=1, **NEWEST, **SOFT
    )


def start_run(studio: Studio, forget, keep, neutral, preset_name, paper, values, owner):
    """Check everything and queue a run. Raises KpopError in words."""
    preset = presets.load_preset(preset_name) if preset_name else None
    config = config_from(studio.model, forget, keep, neutral, preset, paper, values)
    studio.limits().check_run(config.resolved())
    pipe = studio.pipe()
    for text in all_texts(config.resolved()):
        models.check_text(pipe, text)
    return studio.submit(config, owner)


def owned(studio: Studio, run_id: str, request: gr.Request | None) -> None:
    """Raise RunError unless this visitor may stop, resume or change the run."""
    run = studio.run(run_id)
    if studio.read_only:
        raise RunError("This page is read-only: runs cannot be changed here.")
    if run.is_example:
        raise RunError("This is the example that ships with the app. Train a run of your own in step 2.")
    if not studio.may_change(run, visitor(request)):
        raise RunError("Somebody else started this run, so only they can change it.")
