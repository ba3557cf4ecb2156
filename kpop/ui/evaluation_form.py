"""The fields of step Evaluate: who may start one, what fits a run, how much work it will be."""

from __future__ import annotations

import gradio as gr

from .. import evaluation_jobs, evaluation_plan, models
from ..errors import InputError, KpopError, RunError
from ..evaluation_plan import seeds_asked, usual_seeds
from ..visitors import HOST
from .evaluation_view import PROTOCOLS, about_html
from .pictures import notice
from .studio import Studio, visitor
from .train import owned

FIRST_RETAINED, FIRST_UNTOUCHED = 4, 3  # words chosen until the visitor does
FIRST_PICTURES = 10


def refusal(studio: Studio, run_id: str | None, request: gr.Request | None) -> tuple[str, str] | None:
    """Why this visitor cannot evaluate the run, as a heading and a sentence, or None."""
    if not run_id:
        return "Nothing to evaluate yet", "Train a run in step 2, or choose one at the top of the page."
    try:
        evaluable(studio, run_id, request)
        evaluation_jobs.check_run(studio.run(run_id))
    except KpopError as error:
        return "This run cannot be evaluated now", str(error)
    return None


def evaluable(studio: Studio, run_id: str | None, request: gr.Request | None) -> None:
    """Raise RunError unless this visitor may start, stop and delete evaluations of the run."""
    run = studio.run(run_id)
    if not run.is_example or studio.read_only:
        owned(studio, run_id, request)
    elif studio.exposure.shared and visitor(request) != HOST:
        raise RunError(
            "This is the example that everybody here sees, so only the facilitator evaluates it. Train a run "
            "of your own in step 2, and evaluate that."
        )


def may_evaluate(studio: Studio, run_id: str, request: gr.Request | None) -> bool:
    """Whether this visitor may start, stop and delete evaluations of the run."""
    try:
        evaluable(studio, run_id, request)
    except KpopError:
        return False
    return True


def fields_of(studio: Studio, run_id: str | None, filled: str | None, request: gr.Request | None) -> list:
    """Note, form and fields for a run: the protocols that fit it, and its own words first.

    What a visitor chose for the run in `filled` stays.
    """
    said = refusal(studio, run_id, request)
    if said:
        return [notice(*said), gr.Column(visible=False), *[gr.skip()] * 7]
    if filled == run_id:
        return ["", gr.Column(visible=True), *[gr.skip()] * 7]
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
        *more[1:],
        about(studio, run_id, kinds[0], words, usual_seeds(FIRST_PICTURES)),
        run_id,
    ]


def uses_file(run, protocol: str) -> bool:
    """Whether a protocol takes a CSV: always `csv`, and `sensitive` where the model has no own prompts."""
    return protocol == "csv" or (protocol == "sensitive" and models.family(run.config.model) != "emoji")


def shown_fields(run, protocol: str) -> list:
    """Which of words, file, number of pictures and seeds a protocol has."""
    file = uses_file(run, protocol)
    return [
        gr.Dropdown(visible=protocol == "objects"),
        gr.File(visible=file),
        gr.Slider(visible=not file),
        gr.Textbox(visible=not file),
    ]


def about(studio: Studio, run_id: str | None, protocol: str | None, words, seeds) -> str:
    """HTML under the protocols: what the chosen one does, how much work that is, or what is wrong."""
    if not run_id or not protocol:
        return ""
    run = studio.run(run_id)
    count = evaluation_plan.prompt_count(run, protocol, words or ())
    if count is None:
        return about_html(protocol, None, None)
    try:
        count *= len(seeds_asked(seeds)) * len(run.method.variants)
        studio.limits().check_judged(count)
    except InputError as error:
        return about_html(protocol, None, None, str(error))
    return about_html(protocol, count, seconds_of(studio, run, count))


def seconds_of(studio: Studio, run, pictures: int) -> float | None:
    """About how long: by the newest evaluation of the model here, else by timed rows; None before either."""
    each = evaluation_jobs.measured_pace(studio.runs_dir, run.config.model)
    if each is None and (pace := studio.pace()) is not None and run.config.model == studio.model:
        from ..pace import picture_rows

        each = picture_rows(studio.model) * pace.forward
    return None if each is None else each * pictures
