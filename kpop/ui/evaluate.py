"""Step 5: count what was forgotten, kept and comes back, in the background, and read what was found."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from .. import evaluation_jobs, evaluation_plan, models, runs
from ..errors import InputError, KpopError, RunError
from ..evaluation_plan import MOST_PICTURES, Ask
from ..run_status import ACTIVE
from .boundary import plainly
from .evaluation_view import (
    PROTOCOLS,
    about_html,
    chosen,
    figures_html,
    list_html,
    report_html,
    stamp,
    status_card,
)
from .page import QUIET, SOFT, Page, clicked, heading, row_click
from .paper_tables import paper_table_html, paper_tables
from .pictures import notice
from .studio import Studio, visitor
from .train import owned

FIRST_RETAINED, FIRST_UNTOUCHED = 4, 3  # words chosen until the visitor does


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
    start: gr.Button | None
    card: gr.HTML
    stop: gr.Button | None
    resume: gr.Button | None
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
        """What an evaluation is started with."""
        return [self.protocol, self.words, self.prompts, self.pictures]

    @property
    def fields(self) -> list:
        """Outputs of `fields_of`."""
        return [self.note, self.form, *self.asked, self.about, self.filled]

    @property
    def view(self) -> list:
        """Outputs of `look`."""
        buttons = [self.stop, self.resume] if self.stop else []
        return [self.card, *buttons, self.save, self.figures, self.fold, self.report, self.others, self.seen]


def build_evaluate(studio: Studio) -> EvaluateStep:
    """Lay the step out."""
    heading(
        5,
        "Evaluate",
        "A judge looks at many pictures: what was forgotten, what was kept, what comes back with the key. "
        "It goes on in the background.",
    )
    form = protocol = about = words = prompts = pictures = start = stop = resume = None
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
                    1, MOST_PICTURES, value=10, step=1, label="Pictures each", elem_id="evaluate-pictures",
                    buttons=[], scale=2, min_width=200,
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
        note, form, protocol, about, words, prompts, pictures, start, card, stop, resume, save, figures, fold,
        report, others, table, paper, gr.State({}), gr.State(None),
    )  # fmt: skip


def wire_evaluate(page: Page, step: EvaluateStep, tab: gr.Tab, load) -> None:
    """Connect the fields, the two-second look at the folder, and the choice of another run."""
    studio = page.studio

    @plainly
    def look_now(run_id, seen, request: gr.Request):
        return look(studio, run_id, seen, request)

    @plainly
    def look_again(run_id, request: gr.Request):
        return look(studio, run_id, {}, request)

    def at(run_id, name, request):
        return look(studio, run_id, {"run": run_id, "name": name}, request)

    @plainly
    def opened(run_id, request: gr.Request, event: gr.EventData):
        job = evaluation_jobs.find_evaluation(studio.run(run_id), clicked(event, "evaluation"))
        return at(run_id, job.name, request)

    page.timer.tick(look_now, [page.picker, step.seen], step.view, **QUIET)
    page.picker.change(look_again, page.picker, step.view, **QUIET)
    load.then(look_again, page.picker, step.view, **QUIET)
    step.others.click(opened, page.picker, step.view, **SOFT)
    step.table.input(paper_table_html, step.table, step.paper, **QUIET)
    if studio.read_only:
        return

    @plainly
    def fields(run_id, filled, request: gr.Request):
        return fields_of(studio, run_id, filled, request)

    @plainly
    def kind(run_id, protocol, words, prompts, pictures):
        return [*shown_fields(studio.run(run_id), protocol), about(studio, run_id, protocol, words, pictures)]

    @plainly
    def measured(run_id, protocol, words, prompts, pictures):
        yield about(studio, run_id, protocol, words, pictures)
        studio.pace(measure=True)
        yield about(studio, run_id, protocol, words, pictures)

    @plainly
    def start(run_id, protocol, words, prompts, pictures, request: gr.Request):
        owned(studio, run_id, request)
        run = studio.run(run_id)
        model = studio.allowed_model(run.config.model)
        if protocol == "csv" and not prompts:
            raise InputError("Choose a CSV file with your prompts first.")
        ask = Ask(protocol, tuple(words or ()) if protocol == "objects" else (), pictures)
        job = evaluation_jobs.start(
            run, ask, prompts if uses_file(run, protocol) else None, studio.device, visitor(request),
            studio.pipe() if model == studio.model else None,
        )  # fmt: skip
        return at(run_id, job.name, request)

    @plainly
    def stop(run_id, seen, request: gr.Request):
        owned(studio, run_id, request)
        evaluation_jobs.stop(evaluation_jobs.find_evaluation(studio.run(run_id), seen.get("name")))
        return at(run_id, seen.get("name"), request)

    @plainly
    def resume(run_id, seen, request: gr.Request):
        owned(studio, run_id, request)
        evaluation_jobs.resume(evaluation_jobs.find_evaluation(studio.run(run_id), seen.get("name")))
        return at(run_id, seen.get("name"), request)

    private = {"api_visibility": "private"}
    asked = [page.picker, *step.asked]
    for event in (page.picker.change, load.then, tab.select):
        event(fields, [page.picker, step.filled], step.fields, **QUIET)
    gr.on(
        [tab.select, step.words.change, step.pictures.change], measured, asked, step.about,
        trigger_mode="always_last", concurrency_id="estimate", concurrency_limit=1, **SOFT,
    )  # fmt: skip
    step.protocol.input(kind, asked, [step.words, step.prompts, step.pictures, step.about], **QUIET)
    step.start.click(start, asked, step.view, show_progress_on=step.card, **private)
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
    jobs = evaluation_jobs.list_evaluations(run) if run else []
    job = chosen(jobs, seen.get("name") if seen.get("run") == run_id else None)
    now, every = stamp(job), [stamp(each) for each in jobs]
    buttons = 0 if studio.read_only else 2
    if seen.get("now") == now and seen.get("every") == every and seen.get("run") == run_id:
        return [gr.skip()] * (7 + buttons)
    seen |= {"run": run_id, "name": job.name if job else None, "now": now, "every": every}
    mine = run is not None and not_mine(studio, run_id, request) is None
    if run is None:
        card = notice("No run yet", "Train a run in step 2, or choose one at the top of the page.")
    else:
        card = status_card(job, resumable=mine) if job else ""
    state = job.status.state if job and mine else ""
    keys = [
        gr.Button(visible=state in ACTIVE, value="Stop at once" if state == "stopping" else "Stop"),
        gr.Button(visible=state in ("stopped", "failed", "interrupted") and bool(job.request)),
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


def refusal(studio: Studio, run_id: str | None, request: gr.Request | None) -> tuple[str, str] | None:
    """Why this visitor cannot evaluate the run, as a heading and a sentence, or None."""
    if not run_id:
        return "Nothing to evaluate yet", "Train a run in step 2, or choose one at the top of the page."
    try:
        owned(studio, run_id, request)
        evaluation_jobs.check_run(studio.run(run_id))
    except KpopError as error:
        return "This run cannot be evaluated now", str(error)
    return None


def not_mine(studio: Studio, run_id: str, request: gr.Request | None) -> str | None:
    """Why this visitor may not change the run, or None."""
    try:
        owned(studio, run_id, request)
    except KpopError as error:
        return str(error)
    return None


def fields_of(studio: Studio, run_id: str | None, filled: str | None, request: gr.Request | None) -> list:
    """Note, form and fields for a run: the protocols that fit it, and its own words first.

    What a visitor chose for the run in `filled` stays.
    """
    said = refusal(studio, run_id, request)
    if said:
        return [notice(*said), gr.Column(visible=False), *[gr.skip()] * 6]
    if filled == run_id:
        return ["", gr.Column(visible=True), *[gr.skip()] * 6]
    run = studio.run(run_id)
    kinds = evaluation_plan.protocols_of(run)
    told = evaluation_plan.words_of(run)
    words = [*told["erased"], *told["retained"][:FIRST_RETAINED], *told["untouched"][:FIRST_UNTOUCHED]]
    every = list(dict.fromkeys(word for some in told.values() for word in some))
    more = shown_fields(run, kinds[0])
    return [
        "",
        gr.Column(visible=True),
        gr.Radio(choices=[(PROTOCOLS[kind], kind) for kind in kinds], value=kinds[0]),
        gr.Dropdown(choices=every, value=words, visible=kinds[0] == "objects"),
        more[1],
        more[2],
        about(studio, run_id, kinds[0], words, 10),
        run_id,
    ]


def uses_file(run, protocol: str) -> bool:
    """Whether a protocol takes a CSV: always `csv`, and `sensitive` where the model has no own prompts."""
    return protocol == "csv" or (protocol == "sensitive" and models.family(run.config.model) != "emoji")


def shown_fields(run, protocol: str) -> list:
    """Which of words, file and number of pictures a protocol has."""
    file = uses_file(run, protocol)
    return [
        gr.Dropdown(visible=protocol == "objects"),
        gr.File(visible=file),
        gr.Slider(visible=not file),
    ]


def about(studio: Studio, run_id: str | None, protocol: str | None, words, pictures) -> str:
    """HTML under the protocols: what the chosen one does, how many pictures, about how long."""
    if not run_id or not protocol:
        return ""
    run = studio.run(run_id)
    count = evaluation_plan.prompt_count(run, protocol, words or ())
    count = count and count * int(pictures or 0) * len(run.method.variants)
    pace, seconds = studio.pace(), None
    if count and pace is not None and run.config.model == studio.model:
        from ..pace import picture_rows

        seconds = count * picture_rows(studio.model) * pace.forward
    return about_html(protocol, count, seconds)
