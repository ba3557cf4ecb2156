"""What one look at a run folder shows: state, curves, table.

What is slow to draw is kept as long as its files have the stamp they were drawn from.
"""

from __future__ import annotations

from functools import lru_cache
from html import escape
from pathlib import Path

import gradio as gr

from .. import jobs
from ..command_output import span
from ..errors import placeless
from ..kept import frames, opened
from ..presets import are_sensitive, list_presets
from ..run_status import ACTIVE, ENDED
from .charts import Line, line_chart, smoothed
from .drift import MOST_LINES, drifted
from .pictures import blurred, data_uri, notice
from .run_picker import ago, by_method, concept_names, has_result, made_at, share, state_word
from .run_samples import written
from .studio import Studio
from .words import covered

TABLE_ROWS = 30
BEFORE_AND_AFTER = ("original", "sanitized", "recovered")
LOSSES = (
    ("l_erase", "erase (L1)", "sanitized", ""),
    ("l_recover", "recover (L2)", "recovered", ""),
    ("l_transfer", "transfer to the key", "recovered", "2 3"),
    ("l_retain", "retain", "original", "6 3"),
    ("l_key_retain", "retain with the key", "original", "2 3"),
    ("l_earlier", "retain what earlier keys open", "original", "1 3"),
)
DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 3", "12 4")


def progress(studio: Studio, run) -> list[str]:
    """Card and curves. run: None where none is chosen."""
    return [run_card(studio, run), curves(run) if run else ""]


def controls(studio: Studio, run) -> list:
    """The way to Compare, and where runs may be changed, the buttons for what the run's state allows."""
    state = run.status.state if run else None
    onward = gr.Button(visible=run is not None and state in ENDED and has_result(run))
    if studio.read_only:
        return [onward]
    own = run is not None and studio.may_change(run, studio.asking())
    resumable = own and state in ("stopped", "failed", "interrupted") and not run.damage
    return [
        onward,
        gr.Button(
            "Stop and keep" if state == "running" else "Stop",
            visible=own and state in ("starting", "running", "queued"),
            interactive=True,
        ),
        gr.Button(visible=resumable),
        gr.Button(visible=run is not None and not run.damage),
        gr.Button(visible=own and state in ENDED),
        gr.Row(visible=False),
    ]


def run_card(studio: Studio, run) -> str:
    """HTML: what the run is doing, how far it is, what went wrong."""
    if run is None:
        return notice(
            "No run yet", "Press “Forget” above: the curves and the pictures appear here while it learns."
        )
    status, state = run.status, run.status.state
    names = escape(by_method(run))
    titles = {
        "queued": "Waiting to forget",
        "starting": "Getting ready to forget",
        "running": "Forgetting",
        "stopping": "Stopping",
        "done": "Forgot",
        "stopped": "Stopped while forgetting",
        "failed": "Failed to forget",
        "interrupted": "Interrupted while forgetting",
    }
    done = 100 * status.step / max(status.steps or 1, 1)
    facts = [f"step <b>{status.step}</b> / {status.steps}" if status.steps else ""]
    if state == "running" and status.eta_s is not None:
        facts.append(f"about {span(status.eta_s)} left")
    if state == "queued":
        ahead = jobs.queue_position(run) or 0
        soon = "waits for a node of the cluster" if status.runner == "ray" else "starts in a moment"
        facts = [f"{ahead} run{'s' if ahead != 1 else ''} before this one" if ahead else soon]
    elif status.runner == "ray" and state in ACTIVE:
        facts.append(f"on {escape(status.host)}")
    if state == "starting":
        facts.append("loading the model and drawing the pictures to learn from")
    if run.is_example:
        facts.append("example that ships with the app")
    elif made_at(run):
        facts.append(f"started {ago(made_at(run))}")
    bar = (
        f'<div class="bar" role="progressbar" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{done:.0f}" '
        f'aria-label="Progress"><i style="width:{done:.1f}%"></i></div>'
    )
    parts = [
        f'<div class="run {escape(state)}"><div class="run-line"><h3>{titles.get(state, escape(state))} '
        f'<em>{names}</em></h3><span class="state">{escape(state_word(run))}</span></div>'
        f'<p class="fine">{" · ".join(fact for fact in facts if fact)}</p>'
        f"{bar if state in ACTIVE else ''}</div>"
    ]
    if state in ("failed", "interrupted"):
        tail = escape(placeless(run.log_tail(20), run.path))
        said = status.error or "The training process ended without saying why."
        what = escape(placeless(said, run.path))
        then = (
            "Press Resume: it goes on from the last checkpoint."
            if run.has_checkpoint
            else "Press Resume to try again."
        )
        if studio.read_only or run.damage:
            then = ""
        parts.append(
            f'<div class="notice error"><b>{what}</b><p>{then}</p>'
            f"<details><summary>Last lines of the log</summary><pre>{tail}</pre></details></div>"
        )
    parts.append(drifted(studio, run))
    return "".join(parts)


def curves(run) -> str:
    """HTML of the two charts: losses, and how near the key is to each text."""
    if not run.method.stepwise:
        return ""
    return _charts(run, written(run.path / "metrics.jsonl"), run.status.steps)


@lru_cache(maxsize=32)  # thirty visitors may watch one run
def _charts(run, stamp: tuple | None, steps: int) -> str:
    # The cosines stand in some lines only, so thinning comes after reading.
    every = run.metrics(max_points=MOST_LINES)
    if not every:
        return ""
    last = max(steps, every[-1]["step"])
    points = every[:: max(1, len(every) // 300)]
    xs = [point["step"] for point in points]
    losses = [
        Line(name, xs, smoothed([point.get(key) for point in points]), tone, dash)
        for key, name, tone, dash in LOSSES
        if any(point.get(key) for point in points)
    ]
    met = [(point["step"], seen) for point in every if (seen := seen_cosines(point))]
    texts = list(dict.fromkeys(text for _, seen in met for text in seen))
    names = {name.lower() for name in concept_names(run)}
    cosines = []
    for i, text in enumerate(texts):
        concept = text.lower() in names or any(name in text.lower() for name in names)
        tone = "recovered" if concept else "soft" if not text else "original"
        steps, ys = [step for step, _ in met], [seen.get(text) for _, seen in met]
        cosines.append(Line(f"“{text}”" if text else "empty text", steps, ys, tone, DASHES[i % len(DASHES)]))
    charts = line_chart(
        "How well it does", "loss, smoothed, log scale: lower is better", losses, last, log=True
    )
    if cosines:
        charts += line_chart(
            "The key meets the concept",
            "cosine of the key to each text, as the layers see it",
            cosines,
            last,
            least=(0.0, 0.5),
        )
    return f'<div class="charts">{charts}</div>'


def seen_cosines(point: dict) -> dict[str, float]:
    """Text -> cosine of p to it as the layers see it, from one line of metrics.jsonl."""
    cosines = point.get("cosines") or {}
    seen = cosines.get("seen", cosines)
    return {text: value for text, value in seen.items() if isinstance(value, int | float)}


def runs_table(every: list) -> str:
    """HTML table of the runs; a click on a row chooses it."""
    if not every:
        return notice("No runs yet")
    rows = []
    for run in every[:TABLE_ROWS]:
        state = run.status.state
        told = "example" if run.is_example else state_word(run)
        rows.append(
            f"<tr><td>{thumbnails(run)}</td>"
            f'<td><button type="button" data-run="{escape(run.id, quote=True)}">'
            f"{escape(by_method(run))}</button></td>"
            f'<td><span class="state {escape(state)}">{escape(told)}</span></td>'
            f"<td>{steps_of(run.status)}</td>"
            f"<td>{escape('' if run.is_example else ago(made_at(run)))}</td></tr>"
        )
    return (
        '<table class="runs"><thead><tr><th><span class="unseen">picture</span></th>'
        "<th>Forgets</th><th>State</th>"
        f"<th>Steps</th><th>Started</th></tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def thumbnails(run) -> str:
    """HTML: one seed by the original, the sanitized and the recovered model, small, at the newest sample.

    A hole where nothing was sampled after step 0. Sensitive pictures are blurred.
    """
    samples = run.samples()
    step, paths = samples[-1] if samples else (0, {})
    shown = [(variant, paths[variant]) for variant in BEFORE_AND_AFTER if variant in paths] if step else []
    stamped = tuple((variant, path, written(path)) for variant, path in shown)
    return _thumbnails(stamped, run.config.concepts) if stamped else '<i class="pic-hole"></i>'


@lru_cache(maxsize=256)
def _thumbnails(shown: tuple[tuple[str, Path, tuple | None], ...], concepts: tuple) -> str:
    hidden = "veiled" if are_sensitive(concepts, list_presets()) else ""
    parts = []
    for variant, path, _ in shown:
        strip = opened(path)
        if strip is not None:
            image = frames(strip)[0]
            image = blurred(image) if covered(variant, hidden) else image
            parts.append(f'<img class="{variant}" src="{data_uri(image, 96)}" alt="{variant}">')
    return f'<span class="thumbs">{"".join(parts)}</span>' if parts else '<i class="pic-hole"></i>'


def steps_of(status) -> str:
    """ "200 / 200", and while it trains "35 % of 200"."""
    if status.state in ACTIVE:
        return f"{share(status)} % of {status.steps}"
    return f"{status.step} / {status.steps}"
