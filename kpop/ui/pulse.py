"""What an open page asks every two seconds: whether anything has changed. One small answer for all steps.

Gradio builds a component anew for every output that an event leaves as it is (gr.skip()), which costs far
more than reading the run folders. So the look answers with a short mark a part, and the page asks for the
parts whose mark is a new one, each of which fills all that it names.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import gradio as gr

from .. import evaluation_jobs, jobs
from ..command_output import span
from ..run_status import ACTIVE
from .boundary import plainly
from .evaluation_view import stamp
from .page import NEWEST, QUIET, Page
from .run_picker import ago, choices, has_result, made_at, share
from .run_samples import samples_mark
from .studio import Studio


@dataclass(frozen=True)
class Pulse:
    """A hidden field a part of the page; its value changes when the part has something new to show."""

    names: gr.Textbox  # of the run picker
    progress: gr.Textbox  # card and curves of the run
    controls: gr.Textbox  # its buttons
    samples: gr.Textbox
    table: gr.Textbox  # of runs
    evaluations: gr.Textbox


def build_pulse() -> Pulse:
    """The hidden fields."""
    return Pulse(*(gr.Textbox(visible="hidden", show_label=False, container=False) for _ in range(6)))


def wire_pulse(page: Page, pulse: Pulse, load) -> None:
    """Ask at the start, for another run, and every two seconds."""

    @plainly
    def beat(run_id):
        return marks(page.studio, run_id)

    for event, mode in ((page.timer.tick, {}), (page.picked.then, NEWEST), (load.then, {})):
        event(beat, page.picker, list(vars(pulse).values()), **mode, **QUIET)


def marks(studio: Studio, run_id: str | None) -> list[str]:
    """The marks, in Pulse's order: equal as long as a part would show the same to this visitor."""
    every = studio.all_runs()
    run = next((one for one in every if one.id == run_id), None)
    names, table = choices(every), [row_mark(one) for one in every]
    parts: list[object] = [names, None, None, None, table, None]
    if run is not None:
        status = run.status
        mine = studio.may_change(run, studio.asking())
        left = span(status.eta_s)
        ahead = jobs.queue_position(run) if status.state == "queued" else None
        parts[1] = (status.state, status.step, status.steps, status.error, left, ahead, ago(made_at(run)))
        parts[2] = (status.state, mine, has_result(run), run.damage)
        parts[3] = samples_mark(run.samples())
        judged = evaluation_jobs.list_evaluations(run, studio.runs_dir)
        parts[5] = (mine, status.state, [stamp(job) for job in judged])
    return [hashlib.sha256(repr((studio.started, run_id, part)).encode()).hexdigest()[:12] for part in parts]


def row_mark(run) -> tuple:
    """What a row of the table of runs shows."""
    status = run.status
    shown = len(run.samples()) if status.state in ACTIVE else 0
    return run.id, status.state, share(status), shown, ago(made_at(run))
