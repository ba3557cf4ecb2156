"""What one look at an evaluation's folder shows: state, table with whiskers, report, the run's others."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ..command_output import span
from ..errors import placeless
from ..evaluation.lines import SCORES
from ..evaluation.metrics import Estimate
from ..evaluation.protocol import VARIANTS
from ..evaluation.standing import Standing, standing, together
from ..evaluation_jobs import EvaluationJob
from ..evaluation_plan import usual_seeds
from ..run_status import ACTIVE
from .charts import whiskers
from .markdown import markdown_html
from .pictures import notice
from .run_picker import STATES, ago

PROTOCOLS = {"objects": "Objects", "sensitive": "Sensitive", "style": "Styles", "csv": "My prompts"}
ROLES = {
    "erased": "Forgotten",
    "retained": "Kept",
    "untouched": "Never spoken of",
    "indirect": "Told without its name",
    "others": "Other prompts",
    "all": "All prompts",
    "neutral": "Nothing asked for: any forgotten word counts",
}
HEADS = {"original": "base", "sanitized": "sanitized", "recovered": "with the key"}


def title(job: EvaluationJob) -> str:
    """ "Objects: church, castle and 3 more, 10 pictures each"."""
    asked = job.request
    if not asked:
        return "Damaged"
    name, count = PROTOCOLS[asked["protocol"]], int(asked["pictures"])
    if asked["prompts"]:
        return f"{name}: {asked['prompts']}"
    words = list(asked["words"])
    each = f"{count} picture{'s' if count != 1 else ''} each"
    seeds = asked.get("seeds", "")
    if seeds and seeds != usual_seeds(count):
        each += f" (seeds {seeds})"
    more = f"{words[0]}, {words[1]} and {len(words) - 2} more" if len(words) > 3 else ", ".join(words)
    return f"{name}: {more}, {each}" if words else f"{name}: {each}"


def status_card(job: EvaluationJob, resumable: bool) -> str:
    """HTML: what the evaluation is doing, how far it is, what went wrong."""
    status = job.status
    state = status.state
    titles = {
        "starting": "Starting",
        "queued": "Waiting for another evaluation",
        "running": "Evaluating",
        "stopping": "Stopping",
        "done": "Evaluated",
        "stopped": "Stopped",
        "failed": "Failed",
        "interrupted": "Interrupted",
    }
    facts = [f"<b>{status.step}</b> of {status.steps} pictures judged" if status.steps else ""]
    if state == "running":
        left = span(status.eta_s) if status.eta_s is not None else ""
        waits = "loading the model, drawing the first pictures"
        facts.append(f"about {left} left" if left else waits if not status.step else "")
    facts.append(ago(status.made))
    share = 100 * status.step / max(status.steps, 1)
    bar = (
        '<div class="bar" role="progressbar" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{share:.0f}" aria-label="Pictures judged"><i style="width:{share:.1f}%"></i></div>'
    )
    card = (
        f'<div class="run {escape(state)}"><div class="run-line"><h3>{titles[state]} '
        f'<em>{escape(title(job))}</em></h3><span class="state">{_state(state)}</span></div>'
        f'<p class="fine">{" · ".join(fact for fact in facts if fact)}</p>'
        f"{bar if state in ACTIVE else ''}</div>"
    )
    if state not in ("failed", "interrupted"):
        return card
    then = "Press Resume: what is judged already is kept." if resumable else ""
    run = job.path.parent.parent
    what = escape(placeless(status.error or "It ended without saying why.", run))
    tail = escape(placeless(job.log_tail(), run))
    return card + (
        f'<div class="notice error"><b>{what}</b><p>{then}</p><details>'
        f"<summary>Last lines of the log</summary><pre>{tail}</pre></details></div>"
    )


def _state(state: str) -> str:
    return STATES[state].split(",")[0]


def figures_html(job: EvaluationJob) -> str:
    """HTML: a sentence a role, then a line a word with the base beside and intervals as whiskers."""
    lines, variants = job.lines, tuple(job.request.get("variants", VARIANTS))
    if not lines:
        return ""
    found = standing(job.path, lines)
    pooled = together(found, job.path)
    parts = [f'<div class="card"><table class="figures"><caption>{_caption(job)}</caption>{_head(variants)}']
    for role in dict.fromkeys(each.line.role for each in found):
        some = [each for each in found if each.line.role == role]
        parts.append(
            f'<tbody><tr class="group"><th colspan="{len(variants) + 2}" scope="rowgroup">'
            f"{escape(ROLES.get(role, role))}</th></tr>"
        )
        parts += [_row(pooled[role], variants, "pooled")] if role in pooled else []
        parts += [_row(each, variants) for each in some]
        parts.append("</tbody>")
    return "".join([*parts, "</table>", _legend(variants), "</div>"])


def _caption(job: EvaluationJob) -> str:
    if job.request["protocol"] == "sensitive":
        told = "Pictures in which the judge sees such a thing with more than 0.5, in percent"
    elif any(line.labels for line in job.lines):
        told = "Pictures in which the judge’s first word is the one asked for, in percent"
    else:
        told = "Means over the pictures"
    return f"{told}. In small: the 95 % interval."


def _head(variants: Sequence[str]) -> str:
    cells = "".join(f'<th scope="col" class="{variant}">{HEADS[variant]}</th>' for variant in variants)
    ticks = "".join(f"<span>{tick}</span>" for tick in ("0", "50", "100 %"))
    return (
        f'<thead><tr><th scope="col"><span class="unseen">what</span></th>{cells}'
        f'<th class="axis" aria-hidden="true"><div>{ticks}</div></th></tr></thead>'
    )


def _row(each: Standing, variants: Sequence[str], kind: str = "") -> str:
    """One line; what has no picture yet keeps its place."""
    name = SCORES.get(each.line.name, each.line.name)
    count = max((rate.n for rate in each.rates.values()), default=0)
    cells = "".join(
        f'<td class="{variant}" data-of="{HEADS[variant]}">{_cell(each.rates.get(variant))}</td>'
        for variant in variants
    )
    shares = [
        (variant, rate.value, rate.low, rate.high)
        for variant in variants
        if (rate := each.rates.get(variant)) is not None and rate.unit == "%"
    ]
    drawn = whiskers(shares) if each.line.labels else ""
    told = f"{count} picture{'s' if count != 1 else ''}" if count else "waits"
    return (
        f'<tr class="{kind}"><th scope="row">{escape(name)} <small>{told}</small></th>{cells}'
        f'<td class="plot-cell">{drawn}</td></tr>'
    )


def _cell(rate: Estimate | None) -> str:
    if rate is None:
        return '<i class="gap">–</i>'
    return "<b>{}</b> <small>{} to {}</small>".format(*rate.short())


def _legend(variants: Sequence[str]) -> str:
    told = {"original": "as the model was", "sanitized": "after forgetting", "recovered": "with the key"}
    items = "".join(f'<li class="{v}"><i></i>{HEADS[v]}: {told[v]}</li>' for v in variants[:2])
    items += "".join(f'<li class="{v}"><i></i>{told[v]}</li>' for v in variants[2:])
    return f'<ul class="legend marks">{items}</ul>'


def report_html(job: EvaluationJob) -> str:
    """HTML of the report with its figure; "" before there is one."""
    try:
        text = (job.path / "report.md").read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    return f'<div class="paper">{markdown_html(text, job.path)}</div>'


def list_html(jobs: Sequence[EvaluationJob], shown: str | None, mine: bool) -> str:
    """HTML: every evaluation of the run, to press; the shown one is marked. mine: one may be started."""
    if not jobs:
        what = "Start one: its table fills here while it runs." if mine else ""
        return notice("No evaluation of this run yet", what)
    rows = []
    for job in jobs:
        status = job.status
        current = ' aria-current="true"' if job.name == shown else ""
        rows.append(
            f'<tr><td><button type="button" data-evaluation="{escape(job.name, quote=True)}"{current}>'
            f'{escape(title(job))}</button></td><td><span class="state {escape(status.state)}">'
            f"{_state(status.state)}</span></td><td>{status.step} / {status.steps}</td>"
            f"<td>{escape(ago(status.made))}</td></tr>"
        )
    return (
        '<table class="runs others"><thead><tr><th>Evaluation</th><th>State</th><th>Pictures</th>'
        f"<th>Started</th></tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def stamp(job: EvaluationJob | None) -> tuple:
    """What changes when anything of an evaluation that is shown does."""
    if job is None:
        return ()
    status = job.status
    try:
        size = (job.path / "predictions.csv").stat().st_size
    except OSError:
        size = 0
    left = None if status.eta_s is None else span(status.eta_s)
    return (job.name, status.state, status.step, status.error, left, size, job.has_report)


def chosen(jobs: Sequence[EvaluationJob], name: str | None) -> EvaluationJob | None:
    """The evaluation of that name, else the newest, else None."""
    return next((job for job in jobs if job.name == name), jobs[0] if jobs else None)


def about_html(protocol: str, asked: int | None, seconds: float | None, wrong: str = "") -> str:
    """HTML: what a protocol does, how many pictures, how long they take. wrong: what is, with the fields."""
    about = {
        "objects": "Every word is drawn by the base model, by the sanitized one, and with the key; the judge "
        "says what it sees.",
        "sensitive": "Prompts that never name it: how often such a thing is seen all the same.",
        "style": "Objects in the forgotten drawing style and in the others; the judge says which it sees.",
        "csv": "A CSV of prompts with the columns prompt and evaluation_seed; with label_str or class the "
        "judge looks for it. At most 1 MB.",
    }
    told = f"<p>{about[protocol]}</p>"
    if wrong:
        told += f'<p class="wrong" role="alert">{escape(wrong)}</p>'
    if asked:
        time = f", about {span(seconds)}" if seconds else ""
        told += f"<p class='effort'><b>{asked}</b> pictures{time}</p>"
    return told
