"""What the steps of the page share: the app's state and the components every step speaks to."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from .studio import Studio

GPU = {"concurrency_id": "gpu", "concurrency_limit": 1}
SKETCH = {"concurrency_id": "sketch", "concurrency_limit": 1}  # drawn unasked; lets a click go first
SOFT = {"api_visibility": "private", "show_progress": "hidden"}
QUIET = {"queue": False, **SOFT}  # for looking only: an error of an event outside the queue is not shown
NEWEST = {"trigger_mode": "always_last"}  # of several changes in a row the last is answered; see `whenever`


@dataclass(frozen=True)
class Page:
    """studio: the app's state; picker: chosen run's id; tabs: the steps; timer: ticks while looked at.

    picked: another run was chosen, see `whenever`.
    """

    studio: Studio
    picker: gr.Dropdown
    picked: gr.events.Dependency
    tabs: gr.Tabs
    timer: gr.Timer


def whenever(*events, js: str = "() => {}", inputs=None) -> gr.events.Dependency:
    """What each of these events sets off: each listener hangs on it with `.then(..., **NEWEST)`.

    In gradio 6.31 two listeners that wait for their turn must not share an event itself: one that has waited
    repeats the event for both, so after two quick changes they wait for each other in turns, for ever.
    """
    return gr.on(list(events), None, inputs, js=js, trigger_mode="multiple", **SOFT)


def heading(number: int | str, title: str, text: str) -> gr.HTML:
    """Title of a step with one sentence on what is done here."""
    return gr.HTML(f'<div class="step-title"><h2>{title}</h2><p>{text}</p></div>')


def row_click(name: str) -> str:
    """JavaScript for an HTML table: a click on a row with data-NAME fires `click` with {NAME: its value}."""
    return f"""element.addEventListener('click', (event) => {{
      const row = event.target.closest('[data-{name}]');
      if (row) trigger('click', {{{name}: row.dataset.{name}}});
    }});"""


def clicked(event: gr.EventData, name: str) -> str:
    """What a `row_click` or another event told, which comes from a browser and may be anything."""
    told = event._data.get(name, "") if isinstance(event._data, dict) else ""
    return str(told)
