"""How often the judge sees a word in pictures of it: base model, sanitized, and with a key recovered.

Predictions are kept in predictions.csv as they are made, so an evaluation that was broken off goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import EraseConfig, names
from ..errors import InputError
from ..run_texts import phrase
from .detectors import unknown_label
from .metrics import Estimate, erasing_success_rate, preserving_success_rate, recovery_rate
from .predictions import Predictions

if TYPE_CHECKING:
    from PIL.Image import Image

    from .detectors import Detector

VARIANTS = ("original", "sanitized", "recovered")
ROLES = ("erased", "retained", "untouched")
DEPTHS = (1, 5)  # the k of ESR-k and PSR-k
NEUTRAL, NEUTRAL_TEXT = "neutral", "neutral text"  # role and word of its pictures; no judge has such a label
COLUMNS = ("word", "role", "prompt", "seed", "variant", "labels")
SEPARATOR = "|"  # between the labels of one picture

Draw = Callable[[str, list[int]], dict[str, "list[Image]"]]  # prompt, seeds -> variant -> pictures
Progress = Callable[[int, int], None]  # pictures done, of


@dataclass(frozen=True)
class WordResult:
    """One word. rates: variant -> k -> percent of its pictures in which the judge's k best hold the word.

    Of the neutral text: in which they hold any of the erased words.
    """

    word: str
    role: str
    prompt: str
    rates: dict[str, dict[int, Estimate]]


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation found. summary: role -> figure such as "ESR-1" -> Estimate over its pictures."""

    words: tuple[WordResult, ...]
    summary: dict[str, dict[str, Estimate]]
    accuracy: float  # of the judge on held-out pictures, percent
    seeds: tuple[int, ...]
    settings: dict[str, Any]

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants that were drawn, in their order."""
        return tuple(self.words[0].rates)

    def to_dict(self) -> dict[str, Any]:
        """metrics.json."""
        return {
            "judge_accuracy": self.accuracy,
            "seeds": list(self.seeds),
            "words": [
                {
                    "word": result.word,
                    "role": result.role,
                    "prompt": result.prompt,
                    **{
                        variant: {f"top{k}": rate.to_dict() for k, rate in rates.items()}
                        for variant, rates in result.rates.items()
                    },
                }
                for result in self.words
            ],
            "summary": {
                role: {name: rate.to_dict() for name, rate in rates.items()}
                for role, rates in self.summary.items()
            },
            "settings": self.settings,
        }


def role_of(word: str, config: EraseConfig) -> str:
    """Whether a run erases the word (or a synonym list that holds it), retains it, or never heard of it."""
    for role, concepts in (("erased", config.concepts), ("retained", config.retain or ())):
        if any(word.lower() == name.lower() for concept in concepts for name in names(concept)):
            return role
    return "untouched"


def accepted_labels(word: str, config: EraseConfig, labels: Sequence[str]) -> tuple[str, ...]:
    """Labels of the judge that count as the word: itself, and its synonyms in the run. Raises InputError."""
    words = {word.lower()}
    for concept in (*config.concepts, *(config.retain or ())):
        lowered = {name.lower() for name in names(concept)}
        words |= lowered if word.lower() in lowered else set()
    found = tuple(label for label in labels if label.lower() in words)
    if not found:
        raise unknown_label(word, labels)
    return found


def evaluate(
    draw: Draw,
    judge: Detector,
    config: EraseConfig,
    words: Sequence[str],
    seeds: Sequence[int],
    out: str | Path,
    settings: dict[str, Any],
    template: str = "a {}",
    batch_size: int = 8,
    on_progress: Progress | None = None,
    variants: Sequence[str] = VARIANTS,
    neutral: str | None = None,
) -> Evaluation:
    """Draw every word with every seed by each variant, ask the judge, and count.

    variants: what `draw` gives; original and sanitized are among them. neutral: the run's neutral text, drawn
    too where a word is erased; what the base's pictures of it show, no erasure can be expected to take away.

    settings: what the predictions depend on (model, weights, key, sampler); predictions already in `out` are
    used again only if theirs are the same. Raises InputError, RunError, and what `draw` raises.
    """
    words, seeds = list(dict.fromkeys(words)), list(dict.fromkeys(seeds))
    if not words or not seeds:
        raise InputError("Give at least one word and one seed to evaluate.")
    if "{}" not in template:
        raise InputError('The template must hold "{}" where the word stands, such as "a {}".')
    asked = [
        _Asked(word, role_of(word, config), phrase(template, word),
               accepted_labels(word, config, judge.labels))
        for word in words
    ]  # fmt: skip
    erased = [label for one in asked if one.role == "erased" for label in one.labels]
    if erased and neutral is not None:
        asked.append(_Asked(NEUTRAL_TEXT, NEUTRAL, neutral, tuple(dict.fromkeys(erased))))
    out = Path(out)
    store = _opened(out, settings, template)

    def has(word: str, seed: int) -> bool:
        return all((word, seed, variant) in store.rows for variant in variants)

    missing = [(one, [seed for seed in seeds if not has(one.word, seed)]) for one in asked]
    total = len(variants) * len(asked) * len(seeds)
    done = total - len(variants) * sum(len(left) for _, left in missing)
    for one, left in missing:
        for start in range(0, len(left), batch_size):
            chunk = left[start : start + batch_size]
            if on_progress is not None:
                on_progress(done, total)
            pictures = draw(one.prompt, chunk)
            labels = {variant: judge.top_k(pictures[variant], max(DEPTHS)) for variant in variants}
            told = [
                (one.word, one.role, one.prompt, str(seed), variant, SEPARATOR.join(found))
                for variant in variants
                for seed, found in zip(chunk, labels[variant], strict=True)
            ]
            store.add([dict(zip(COLUMNS, values, strict=True)) for values in told])
            done += len(variants) * len(chunk)
    if on_progress is not None:
        on_progress(total, total)
    store.tidy()
    results, summary = _count(store, variants, asked, seeds)
    return Evaluation(results, summary, float(judge.accuracy), tuple(seeds), settings)


@dataclass(frozen=True)
class _Asked:
    """A word to draw. labels: of the judge, that count as it."""

    word: str
    role: str
    prompt: str
    labels: tuple[str, ...]


def predictions(
    out: str | Path, settings: dict[str, Any], template: str = "a {}"
) -> dict[tuple[str, int, str], list[str]]:
    """(word, seed, variant) -> labels, best first, of what `evaluate` has judged in `out` so far."""
    rows = _opened(Path(out), settings, template).rows
    return {key: row["labels"].split(SEPARATOR) for key, row in rows.items()}


def _opened(out: Path, settings: dict[str, Any], template: str) -> Predictions:
    return Predictions.open(out, settings | {"template": template}, COLUMNS, _key_of)


def _count(store: Predictions, variants: Sequence[str], asked: Sequence[_Asked], seeds: Sequence[int]):
    """A result a word, and the figures by role."""
    results = []
    pooled: dict[str, dict[str, tuple[list, list]]] = {}
    for one in asked:
        rates = {}
        for variant in variants:
            topk = [store.rows[one.word, seed, variant]["labels"].split(SEPARATOR) for seed in seeds]
            rates[variant] = {k: preserving_success_rate(topk, [one.labels] * len(topk), k) for k in DEPTHS}
            held = pooled.setdefault(one.role, {}).setdefault(variant, ([], []))
            held[0].extend(topk)
            held[1].extend([one.labels] * len(topk))
        results.append(WordResult(one.word, one.role, one.prompt, rates))
    summary: dict[str, dict[str, Estimate]] = {}
    for role in (role for role in ROLES if role in pooled):
        figures = summary.setdefault(role, {})
        for k in DEPTHS:
            figures[f"base-{k}"] = preserving_success_rate(*pooled[role]["original"], k)
            if role == "erased":
                if NEUTRAL in pooled:
                    shown, _ = pooled[NEUTRAL]["original"]
                    words = [one.labels for one in asked if one.role == "erased"]
                    every = [(topk, labels) for labels in words for topk in shown]
                    figures[f"ceiling-{k}"] = erasing_success_rate(*map(list, zip(*every, strict=True)), k)
                figures[f"ESR-{k}"] = erasing_success_rate(*pooled[role]["sanitized"], k)
                if "recovered" in variants:
                    figures[f"recovery-{k}"] = recovery_rate(*pooled[role]["recovered"], k)
            else:
                figures[f"PSR-{k}"] = preserving_success_rate(*pooled[role]["sanitized"], k)
                if "recovered" in variants:
                    figures[f"PSR-{k} with key"] = preserving_success_rate(*pooled[role]["recovered"], k)
    return tuple(results), summary


def _key_of(row: dict[str, str]) -> tuple[str, int, str] | None:
    if row["variant"] not in VARIANTS or not row["seed"].isdigit():
        return None
    return row["word"], int(row["seed"]), row["variant"]
