"""The run picker at the top of the page: which runs there are, in words."""

from __future__ import annotations

import time
from collections.abc import Sequence

import gradio as gr

from ..config import concept_name
from ..run_status import ACTIVE


class RunPicker(gr.Dropdown):
    """A dropdown that hands on whatever id it holds: after a restart of the server, which has forgotten its
    choices, an open page goes on. `Studio.run` checks the id.
    """

    is_template = True  # drawn by the browser as the dropdown it is

    def preprocess(self, payload: object) -> str | None:
        return payload if isinstance(payload, str) else None


# Long, in the name already, or not for everybody: with its seed a run's key can be made again.
UNTOLD = ("model", "concepts", "method", "retain", "templates", "schema", "seed", "base_run", "preset")
STATES = {
    "queued": "waiting",
    "starting": "starting",
    "running": "running",
    "stopping": "stopping",
    "done": "done",
    "stopped": "stopped, kept",
    "failed": "failed",
    "interrupted": "interrupted",
}


def state_word(run) -> str:
    """What a run is doing, in a word or two."""
    state = run.status.state
    return "stopped" if state == "stopped" and not run.has_result else STATES.get(state, state)


def concept_names(run) -> list[str]:
    """First name of each concept of a run."""
    return [concept_name(concept) for concept in run.config.concepts]


def subject(run) -> str:
    """What a run forgets, short: "church", "church, dog and 8 more"."""
    names = concept_names(run)
    if len(names) <= 3:
        return ", ".join(names)
    return f"{names[0]}, {names[1]} and {len(names) - 2} more"


def by_method(run) -> str:
    """What a run forgets, and by which method where it is not KPOP: "church, by ESD"."""
    return subject(run) if run.method.has_key else f"{subject(run)}, by {run.method.title}"


def told_apart(runs: Sequence) -> list[str]:
    """A short name of each run, with the settings that differ among those of one name."""
    named = [by_method(run) for run in runs]
    found = []
    for run, name in zip(runs, named, strict=True):
        others = [other.config.to_dict() for other, its in zip(runs, named, strict=True) if its == name]
        own = run.config.to_dict()
        differ = [key for key in own if key not in UNTOLD and any(other[key] != own[key] for other in others)]
        settings = [f"{key.replace('_', ' ')} {own[key]}" for key in differ[:2]]
        if len(others) > 1 and not settings:
            settings = ["example" if run.is_example else ago(made_at(run)) or run.id[-4:]]
        found.append(", ".join([name, *settings]))
    return [
        name if found.count(name) == 1 else f"{name} ({run.id[-4:]})"
        for run, name in zip(runs, found, strict=True)
    ]


def made_at(run) -> float:
    """Seconds since the epoch at which the run was made; 0 where unknown."""
    return run.status.made


def ago(seconds_since_epoch: float) -> str:
    """ "just now", "5 min ago", "3 h ago", "2 days ago"."""
    if not seconds_since_epoch:
        return ""
    age = max(0.0, time.time() - seconds_since_epoch)
    if age < 60:
        return "just now"
    if age < 3600:
        return f"{int(age // 60)} min ago"
    if age < 48 * 3600:
        return f"{int(age // 3600)} h ago"
    return f"{int(age // 86400)} days ago"


def share(status) -> int:
    """Percent of a run's steps, in fives: lists of runs need not change with every step."""
    return 5 * int(20 * status.step / max(status.steps, 1))


def label(run) -> str:
    """One line of the picker: what, state, when."""
    state = run.status.state
    if run.is_example:
        return f"{subject(run)} · example"
    if state in ("running", "stopping"):
        return f"{by_method(run)} · {share(run.status)} %"
    return " · ".join(part for part in (by_method(run), state_word(run), ago(made_at(run))) if part)


def choices(all_runs: list) -> list[tuple[str, str]]:
    """(label, id) pairs for the dropdown."""
    return [(label(run), run.id) for run in all_runs]


def first_choice(all_runs: list, wanted: str | None = None) -> str | None:
    """The run of the address, else one that is going on, else the newest with a result, else the example."""
    ids = {run.id for run in all_runs}
    if wanted in ids:
        return wanted
    own = [run for run in all_runs if not run.is_example]
    for run in own:
        if run.status.state in ACTIVE:
            return run.id
    for run in own:
        if run.status.state in ("done", "stopped"):
            return run.id
    examples = [run for run in all_runs if run.is_example]
    return (examples or own or [None])[0].id if (examples or own) else None


def has_result(run) -> bool:
    """Whether there is something to compare with."""
    return run.has_result
