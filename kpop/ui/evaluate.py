"""Step 5: count what was forgotten, kept and comes back, in the background, and read what was found."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from .. import evaluation_jobs, runs
from ..errors import InputError, RunError
from ..evaluation_plan import MOST_PICTURES, Ask, seeds_asked, usual_seeds
from ..run_status import ACTIVE, ENDED
from .boundary import plainly
from .evaluation_form import (
    FIRST_PICTURES,
    about,
    evaluable,
    fields_of,
    may_evaluate,
    shown_fields,
    uses_file,
)
from .evaluation_view import (
    PROTOCOLS,
    chosen,
    figures_html,
    list_html,
    report_html,
    stamp,
    status_card,
)
from .page import NEWEST, QUIET, SOFT, Page, clicked, heading, row_click
from .paper_tables import paper_table_html, paper_tables
from .pictures import notice
from .pulse import Pulse
from .studio import Studio, visitor


@dataclass(frozen=True)
class EvaluateStep:
    """Components of the step; what starts or changes something is None on a read-only app.

    note: why this visitor cannot start one. seen: what this visitor's page shows already.
    filled: id of the run whose words the fields hold.
    """

    note: gr.HTML
    form: gr.Column | None
    protocol: gr.Radio | None
    about: gr.HTML | None
    words: gr.Dropdown | None
    prompts: gr.File | None
    pictures: gr.Slider | None
    seeds: gr.Textbox | None
    start: gr.Button | None
    card: gr.HTML
    stop: gr.Button | None
    resume: gr.Button | None
    delete: gr.Button | None
    really: gr.Row | None
    delete_yes: gr.Button | None
    delete_no: gr.Button | None
    save: gr.DownloadButton
    figures: gr.HTML
    fold: gr.Accordion
    report: gr.HTML
    others: gr.HTML
    table: gr.Dropdown
    paper: gr.HTML
    seen: gr.State
    filled: gr.State

    @property
    def asked(self) -> list:
        """What an evaluation is started with; the number of pictures only fills the seeds."""
        return [self.protocol, self.words, self.prompts, self.seeds]

    @property
    def fields(self) -> list:
        """Outputs of `fields_of`."""
        return [self.note, self.form, *self.kinds, self.about, self.filled]

    @property
    def kinds(self) -> list:
        """The protocol, and the fields that a protocol has or has not."""
        return [self.protocol, self.words, self.prompts, self.pictures, self.seeds]

    @property
    def view(self) -> list:
        """Outputs of `look`."""
        buttons = [self.stop, self.resume, self.delete, self.really] if self.stop else []
        return [self.card, *buttons, self.save, self.figures, self.fold, self.report, self.others, self.seen]


def build_evaluate(studio: Studio) -> EvaluateStep:
    """Lay the step out."""
    heading(
        5,
        "Evaluate",
        "A judge looks at many pictures: what was forgotten, what was kept, what comes back with the key. "
        "It goes on in the background.",
    )
    form = protocol = about = words = prompts = pictures = seeds = start = stop = resume = None
    delete = really = delete_yes = delete_no = None
    note = gr.HTML(elem_id="evaluate-note")
    if not studio.read_only:
        with gr.Column(elem_classes="card recipe lead", elem_id="evaluate-form", visible=False) as form:
            # All of them at first: after a restart, the server checks an open page's choice against these.
            kinds = [(label, kind) for kind, label in PROTOCOLS.items()]
            protocol = gr.Radio(kinds, label="Look for", elem_id="protocol", elem_classes="chips")
            about = gr.HTML(elem_id="evaluate-about")
            with gr.Row(elem_classes="ask", equal_height=False):
                words = gr.Dropdown(
                    [], label="Words", multiselect=True, allow_custom_value=True, elem_id="evaluate-words",
                    scale=3, min_width=240,
                )  # fmt: skip
                prompts = gr.File(
                    label="Prompts (CSV)", file_types=[".csv"], type="filepath", height=120, visible=False,
                    elem_id="evaluate-prompts", scale=3, min_width=240,
                )  # fmt: skip
                pictures = gr.Slider(
                    1, MOST_PICTURES, value=FIRST_PICTURES, step=1, label="Pictures each",
                    elem_id="evaluate-pictures", buttons=[], scale=2, min_width=200,
                )  # fmt: skip
                seeds = gr.Textbox(
                    usual_seeds(FIRST_PICTURES), label="Their seeds", max_length=200,
                    elem_id="evaluate-seeds", scale=1, min_width=140,
                )  # fmt: skip
            start = gr.Button("Evaluate", variant="primary", elem_id="evaluate-start")
    card = gr.HTML(elem_id="evaluation-card")
    with gr.Row(elem_classes="tight"):
        if not studio.read_only:
            stop = gr.Button("Stop", visible=False, elem_id="evaluation-stop", scale=0, min_width=120)
            resume = gr.Button("Resume", visible=False, elem_id="evaluation-resume", scale=0, min_width=120)
        save = gr.DownloadButton(
            "Save the report (zip)", visible=False, elem_id="evaluation-save", scale=0, min_width=200
        )
        if not studio.read_only:
            delete = gr.Button("Delete", visible=False, elem_id="evaluation-delete", scale=0, min_width=120)
    if not studio.read_only:
        with gr.Row(visible=False, elem_classes="tight", elem_id="evaluation-really") as really:
            gr.HTML("<p>Its table, report and pictures go for good. The run stays.</p>")
            delete_yes = gr.Button(
                "Delete this evaluation", variant="stop", elem_id="evaluation-delete-yes", scale=0
            )
            delete_no = gr.Button("Keep it", elem_id="evaluation-delete-no", scale=0)
    figures = gr.HTML(elem_id="evaluation-figures")
    with gr.Accordion(
        "The whole report", open=False, visible=False, elem_classes="fold", elem_id="evaluation-fold"
    ) as fold:
        report = gr.HTML(elem_id="evaluation-report")
    gr.HTML('<h3 class="section">Evaluations of this run</h3>')
    others = gr.HTML(elem_id="evaluations", js_on_load=row_click("evaluation"))
    known = paper_tables()
    first = known[0][1] if known else None
    with gr.Accordion(
        "The paper’s tables on the embedded model", open=False, elem_classes="fold", elem_id="paper-tables"
    ):
        table = gr.Dropdown(known, value=first, label="Table", elem_id="paper-table", visible=len(known) > 1)
        paper = gr.HTML(paper_table_html(first), elem_id="paper-shown")
    return EvaluateStep(
        note, form, protocol, about, words, prompts, pictures, seeds, start, card, stop, resume, delete,
        really, delete_yes, delete_no, save, figures, fold, report, others, table, paper, gr.State({}),
        gr.State(None),
    )  # fmt: skip


def wire_evaluate(page: Page, step: EvaluateStep, tab: gr.Tab, pulse: Pulse, load) -> None:
    """Connect the fields, the look when the pulse calls for it, and the choice of another run."""
    studio = page.studio

    def find(run_id, name):
        return evaluation_jobs.find_evaluation(studio.run(run_id), name, studio.runs_dir)

    @plainly
    def look_now(run_id, seen, request: gr.Request):
        return look(studio, run_id, seen, request)

    def at(run_id, name, request):
        return look(studio, run_id, {"run": run_id, "name": name}, request)

    @plainly
    def opened(run_id, request: gr.Request, event: gr.EventData):
        return at(run_id, find(run_id, clicked(event, "evaluation")).name, request)

    pulse.evaluations.change(look_now, [page.picker, step.seen], step.view, **QUIET)
    step.others.click(opened, page.picker, step.view, **SOFT)
    step.table.input(paper_table_html, step.table, step.paper, **QUIET)
    if studio.read_only:
        return

    @plainly
    def fields(run_id, filled, request: gr.Request):
        return fields_of(studio, run_id, filled, request)

    @plainly
    def kind(run_id, protocol, words, prompts, seeds):
        return [*shown_fields(studio.run(run_id), protocol), about(studio, run_id, protocol, words, seeds)]

    @plainly
    def measured(run_id, protocol, words, prompts, seeds):
        yield about(studio, run_id, protocol, words, seeds)
        studio.pace(measure=True)
        yield about(studio, run_id, protocol, words, seeds)

    @plainly
    def count(seeds):
        try:
            return len(seeds_asked(seeds))
        except InputError:
            return gr.skip()

    @plainly
    def start(run_id, protocol, words, prompts, seeds, request: gr.Request):
        evaluable(studio, run_id, request)
        run = studio.run(run_id)
        model = studio.allowed_model(run.config.model)
        if protocol == "csv" and not prompts:
            raise InputError("Choose a CSV file with your prompts first.")
        if not uses_file(run, protocol):
            seeds_asked(seeds)  # an empty field is not the same as no wish
        words = tuple(words or ()) if protocol == "objects" else ()
        ask = Ask(protocol, words, seeds="" if uses_file(run, protocol) else seeds.replace(" ", ""))
        job = evaluation_jobs.start(
            run, ask, prompts if uses_file(run, protocol) else None, studio.device, visitor(request),
            studio.pipe() if model == studio.model else None, studio.runs_dir, studio.limits(), studio.runner,
        )  # fmt: skip
        return at(run_id, job.name, request)

    @plainly
    def stop(run_id, seen, request: gr.Request):
        evaluable(studio, run_id, request)
        evaluation_jobs.stop(find(run_id, seen.get("name")))
        return at(run_id, seen.get("name"), request)

    @plainly
    def resume(run_id, seen, request: gr.Request):
        evaluable(studio, run_id, request)
        job = find(run_id, seen.get("name"))
        evaluation_jobs.resume(job, limits=studio.limits(), runner=studio.runner)
        return at(run_id, seen.get("name"), request)

    @plainly
    def remove(run_id, seen, request: gr.Request):
        evaluable(studio, run_id, request)
        evaluation_jobs.delete(find(run_id, seen.get("name")))
        return at(run_id, None, request)

    private = {"api_visibility": "private"}
    asked = [page.picker, *step.asked]
    page.picked.then(fields, [page.picker, step.filled], step.fields, **NEWEST, **QUIET)
    for event in (load.then, tab.select):
        event(fields, [page.picker, step.filled], step.fields, **QUIET)
    gr.on(
        [tab.select, step.words.change, step.seeds.change], measured, asked, step.about,
        trigger_mode="always_last", concurrency_id="estimate", concurrency_limit=1, **SOFT,
    )  # fmt: skip
    step.protocol.input(kind, asked, [*step.kinds[1:], step.about], **QUIET)
    step.pictures.input(usual_seeds, step.pictures, step.seeds, **NEWEST, **QUIET)
    step.seeds.input(count, step.seeds, step.pictures, **NEWEST, **QUIET)
    step.start.click(start, asked, step.view, show_progress_on=step.card, **private)
    step.delete.click(lambda: gr.Row(visible=True), None, step.really, **QUIET)
    step.delete_no.click(lambda: gr.Row(visible=False), None, step.really, **QUIET)
    step.delete_yes.click(remove, [page.picker, step.seen], step.view, **private)
    step.stop.click(stop, [page.picker, step.seen], step.view, **private)
    step.resume.click(resume, [page.picker, step.seen], step.view, show_progress_on=step.card, **private)


def look(studio: Studio, run_id: str | None, seen: dict | None, request: gr.Request | None = None) -> list:
    """Values for EvaluateStep.view; gr.skip() for all that did not change since `seen`.

    The evaluation shown is seen["name"], as long as it is one of the run in seen["run"]; else the newest.
    Its buttons are for the run's owner.
    """
    seen = dict(seen or {})
    run = None
    with suppress(RunError):
        run = studio.run(run_id)
    jobs = evaluation_jobs.list_evaluations(run, studio.runs_dir) if run else []
    job = chosen(jobs, seen.get("name") if seen.get("run") == run_id else None)
    now, every = stamp(job), [stamp(each) for each in jobs]
    buttons = 0 if studio.read_only else 4
    if seen.get("now") == now and seen.get("every") == every and seen.get("run") == run_id:
        return [gr.skip()] * (7 + buttons)
    seen |= {"run": run_id, "name": job.name if job else None, "now": now, "every": every}
    mine = run is not None and may_evaluate(studio, run_id, request)
    if run is None:
        card = notice("No run yet", "Train a run in step 2, or choose one at the top of the page.")
    else:
        card = status_card(job, resumable=mine) if job else ""
    state = job.status.state if job and mine else ""
    keys = [
        gr.Button(visible=state in ACTIVE, value="Stop at once" if state == "stopping" else "Stop"),
        gr.Button(visible=state in ("stopped", "failed", "interrupted") and bool(job.request)),
        gr.Button(visible=state in ENDED),
        gr.Row(visible=False),
    ]
    reported = job is not None and job.has_report
    return [
        card,
        *keys[:buttons],
        gr.DownloadButton(value=zipped(studio, job), visible=True)
        if reported
        else gr.DownloadButton(visible=False),
        figures_html(job) if job else "",
        gr.Accordion(visible=reported),
        report_html(job) if reported else "",
        list_html(jobs, job.name if job else None, mine),
        seen,
    ]


def zipped(studio: Studio, job) -> str:
    """Path of the report's zip on its way to the visitor."""
    place = Path(tempfile.mkdtemp(prefix="evaluation-", dir=studio.scratch()))
    concept = runs.slug(job.run.config.concepts[0])
    return str(evaluation_jobs.pack(job, place / f"evaluation-{concept}.zip"))
