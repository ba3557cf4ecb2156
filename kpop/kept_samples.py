"""Kept siblings in a run's samples: which of them the judge saw before forgetting, and sees no more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .config import names
from .errors import InputError
from .evaluation.protocol import accepted_labels
from .kept import frames, opened
from .runs import Run

if TYPE_CHECKING:
    from .evaluation.detectors import EmojiJudge

DRAWN = 0.5  # probability from which on the base model's picture counts as one of the sibling
GONE = 0.25  # and below which a sample's counts as none
LAST = 2  # samples that all have to miss it, as one alone may be a passing moment


def lost_siblings(run: Run, judge: EmojiJudge) -> list[str]:
    """Words that the base model's sample shows, and the last samples do not. Empty where there are none.

    judge: with calibrated probabilities. Words it has no label for are left out.
    """
    words = [word for concept in run.config.retain or () for word in names(concept)]
    samples = run.samples()
    if not words or len(samples) < 2 or samples[0][0] != 0:
        return []
    before, *later = [
        _seen(paths.get("kept"), words, run, judge) for _, paths in (samples[0], *samples[1:][-LAST:])
    ]
    return [
        word
        for word, share in before.items()
        if share >= DRAWN and all(sample.get(word, 1.0) < GONE for sample in later)
    ]


def _seen(path: Path | None, words: Sequence[str], run: Run, judge: EmojiJudge) -> dict[str, float]:
    """Word -> how surely the judge sees it in the first picture asked for it. path: of a strip of samples."""
    strip = opened(path) if path else None
    if strip is None:
        return {}
    found = {}
    pictures = frames(strip)
    # Samples ask for each retained word in turn, see run_texts.retained_texts.
    for word, row in zip(words, judge.probabilities(pictures), strict=False):
        try:
            labels = accepted_labels(word, run.config, judge.labels)
        except InputError:
            continue
        found[word] = float(sum(row[judge.labels.index(label)] for label in labels))
    return found
