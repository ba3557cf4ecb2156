"""The warning on a run's card when what shall be kept goes: by the losses, and by the judge's eye."""

from __future__ import annotations

from html import escape
from statistics import mean

from ..kept_samples import lost_siblings
from .run_samples import samples_mark
from .studio import Studio

MOST_LINES = 5000  # of metrics.jsonl read for curves and drift
DRIFT = 0.1  # share from which on the page warns
THEN = (
    "Look at the row “Kept”. A new run with fewer steps, or a stronger hold on the siblings (all settings), "
    "keeps them better."
)


def drifted(studio: Studio, run) -> str:
    """HTML: a warning when what shall be kept moved far or is seen no more; "" where nobody can tell."""
    told = []
    lost = studio.once(("lost", run.path, samples_mark(run.samples())), lambda: lost_words(studio, run))
    if lost:
        told.append(
            f"The base model draws {escape(lost)}, and the judge no longer sees it in the last samples."
        )
    moved = drift(run.metrics(max_points=MOST_LINES)) if run.method.stepwise else None
    if moved is not None and moved >= DRIFT:
        told.append(
            f"What the model predicts for the kept words is off by {100 * moved:.0f} % of what forgetting "
            "had to change at the start (squared error)."
        )
    if not told:
        return ""
    return f'<div class="notice error"><b>The kept words drift</b><p>{" ".join(told)} {THEN}</p></div>'


def lost_words(studio: Studio, run) -> str:
    """Kept words that the judge sees no more, in words; "" for none."""
    judge = studio.judge(run.config.model)
    return " and ".join(f"“{word}”" for word in lost_siblings(run, judge)) if judge else ""


def drift(points: list[dict]) -> float | None:
    """How far the retained texts are from the base model, as a share of how far erasing had to go.

    Mean of the last 20 l_retain over the mean of the first 3 l_erase, both squared errors of eps.
    None where nothing is retained, or before the 20th value.
    """
    early = [point["l_erase"] for point in points[:3] if point.get("l_erase")]
    late = [point["l_retain"] for point in points if point.get("l_retain") is not None][-20:]
    if len(late) < 20 or not early:
        return None
    return mean(late) / mean(early)
