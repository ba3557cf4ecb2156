"""The evaluation that a release tells of: the newest of the run's present weights, as a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import InputError
from .evaluation.metrics import ALL_AGREE, Estimate
from .evaluation.protocol import NEUTRAL
from .evaluation_jobs import list_evaluations

if TYPE_CHECKING:
    from .runs import Run

HEADINGS = {"original": "base", "sanitized": "this model", "recovered": "with the key"}
BROKEN = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)


def measured(run: Run, folder: str | Path | None = None, runs_dir: str | Path | None = None) -> str | None:
    """Markdown: what an evaluation of exactly these weights found; None where there is none.

    folder: of `evaluate`. None: the newest that was finished in the background; runs_dir: where those of the
    example are. Raises InputError where `folder` cannot be used.
    """
    if folder is None:
        return _newest(run, runs_dir)
    place = Path(folder).expanduser()
    try:
        found = _metrics(place)
        if not _is_of(found, run):
            raise InputError(
                f"The evaluation in {place.name} is of another run or key, or of older weights of the run."
            )
        return table(found)
    except BROKEN as error:
        raise InputError(f"{place.name} holds no evaluation by `kpop evaluate`.") from error


def _newest(run: Run, runs_dir: str | Path | None) -> str | None:
    for job in list_evaluations(run, runs_dir):
        try:
            if job.status.state == "done" and _is_of(found := _metrics(job.path), run):
                return table(found)
        except BROKEN:
            continue  # a damaged report: an older one may be whole
    return None


def _metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text("utf-8"))


def _is_of(found: dict, run: Run) -> bool:
    told = found["settings"]
    own = told.get("key", "own") == "own"  # the table says "with the key", and another one opens less
    return told["run"] == run.id and told["weights"] == run.weights_stamp() and own


def table(found: dict) -> str:
    """metrics.json of either kind. Raises LookupError, TypeError, ValueError."""
    return _of_words(found) if "words" in found else _of_prompts(found)


def _of_words(found: dict) -> str:
    variants = [v for v in HEADINGS if v in found["words"][0]]
    neutral = any(word["role"] == NEUTRAL for word in found["words"])
    beside = "of the neutral text: any of the erased; " if neutral else ""
    lines = [
        f"Pictures in which the judge's first label is the word, in percent of {len(found['seeds'])} a cell; "
        f"{beside}in brackets the 95 % bootstrap interval. {ALL_AGREE} {_judge(found)}".rstrip(),
        "",
        f"| word | role | {' | '.join(HEADINGS[v] for v in variants)} |",
        f"|---|---|{'---:|' * len(variants)}",
    ]
    for word in found["words"]:
        cells = [_rate(word[variant]["top1"]) for variant in variants]
        lines.append(f"| {_cell(word['word'])} | {_cell(word['role'])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _of_prompts(found: dict) -> str:
    """Of a prompt list: its figures by group of prompts; ESR, PSR and NER are the paper's rates."""
    shown = {
        rates_of for named in found["figures"].values() for rates in named.values() for rates_of in rates
    }
    variants = [v for v in HEADINGS if v in shown]
    count = sum(found["pictures"].values())
    lines = [
        f"{count} prompts ({_cell(found['protocol'])}), a picture each. Figures whose names end in a number "
        f"are in percent, the others are scores; in brackets the 95 % bootstrap interval. {ALL_AGREE} "
        f"{_judge(found)}".rstrip(),
        "",
        f"| prompts | figure | {' | '.join(HEADINGS[v] for v in variants)} |",
        f"|---|---|{'---:|' * len(variants)}",
    ]
    for group, named in found["figures"].items():
        for name, rates in named.items():
            cells = [_rate(rates[v], name) if v in rates else "–" for v in variants]
            lines.append(f"| {_cell(group)} | {_cell(name)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _judge(found: dict) -> str:
    accuracy = found["judge_accuracy"]
    return "" if accuracy is None else f"The judge is right on {accuracy:.1f} % of held-out pictures."


def _rate(rate: dict, name: str = "") -> str:
    return "{} ({} to {})".format(*Estimate.from_dict(rate, name).short())


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
