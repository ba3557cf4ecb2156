"""How well each way of benchmarks.train erased, kept and hid: one judge, and the same words and seeds."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import kpop
from kpop import models
from kpop.cli import seed_list
from kpop.config import concept_name
from kpop.evaluation import detectors, protocol
from kpop.evaluation.metrics import Estimate, estimate, mean_score

COLUMNS = {  # title -> (role, variant, whether the word should be seen)
    "base draws the erased": ("erased", "original", True),
    "ESR-1": ("erased", "sanitized", False),
    "recovery-1": ("erased", "recovered", True),
    "base draws the retained": ("retained", "original", True),
    "PSR-1": ("retained", "sanitized", True),
    "PSR-1 with key": ("retained", "recovered", True),
}
COMPARED = ("ESR-1", "PSR-1", "recovery-1")


def quality_table(asked: argparse.Namespace, told: dict[str, dict], work: Path) -> str:
    """Markdown, a row a way whose run is whole. told: way -> what measure.py told of it.

    The erased words are drawn with every seed; the retained ones share the seeds, each seed one word's. What
    was judged is kept in `work`, so that one that was broken off goes on.
    """
    from benchmarks.train import WAYS, command

    judge, seeds = detectors.load(asked.judge), seed_list(asked.seeds)
    pipe = kpop.load_pipeline(asked.model, device=asked.device)
    config = kpop.GenerationConfig().resolved(asked.model)
    base: dict[tuple[str, int], object] = {}  # the same pictures for all ways
    hits: dict[str, dict[str, list[bool]]] = {}
    for way, one in told.items():
        if one["whole"]:
            hits[way] = judged(pipe, judge, config, Path(one["run"]), seeds, work / f"judged-{way}", base)

    count = len(seeds)
    lines = [command(), "",
             f"{asked.steps[0]} steps; each way's {count} pictures of the erased word and {count} of the "
             f"retained, seeds {asked.seeds}, prompt \"a WORD\", {config.steps} sampling steps, guidance "
             f"{config.guidance_scale:g}; percent, 95 % interval in brackets.", "",
             f"| way | {' | '.join(COLUMNS)} |", "|---|" + "---:|" * len(COLUMNS)]  # fmt: skip
    for way in told:
        if way not in hits:
            lines.append(f"| {WAYS[way]} | not trained to its end |{' |' * (len(COLUMNS) - 1)}")
            continue
        cells = [in_brackets(estimate(hits[way][name])) for name in COLUMNS]
        lines.append(f"| {WAYS[way]} | {' | '.join(cells)} |")
    if "bank" in hits and len(hits) > 1:
        lines += ["", "Points by which the bank does better (+) or worse (-) than the way, on the same "
                  "words and seeds:", "", f"| way | {' | '.join(COMPARED)} |",
                  "|---|" + "---:|" * len(COMPARED)]  # fmt: skip
        for way in (way for way in hits if way != "bank"):
            cells = [
                in_brackets(difference(hits["bank"][name], hits[way][name]), sign=True) for name in COMPARED
            ]
            lines.append(f"| {WAYS[way]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def judged(pipe, judge, config, path: Path, seeds: list[int], out: Path, base: dict) -> dict[str, list[bool]]:
    """Column of COLUMNS -> whether each of its pictures is as it should be, in the order of words, seeds."""
    run = kpop.open_run(path)
    settings = {
        "run": run.id, "model_hash": models.model_hash(pipe), "config": json.dumps(config.to_dict())
    }  # fmt: skip
    erased = [concept_name(concept) for concept in run.config.concepts]
    retained = [concept_name(concept) for concept in run.config.retain or ()]
    shares = {word: seeds for word in erased}
    shares |= {word: seeds[at :: len(retained)] for at, word in enumerate(retained)}

    def pictures(prompt: str, some: list[int]) -> dict:
        missing = [seed for seed in some if (prompt, seed) not in base]
        if missing:
            made = kpop.generate(pipe, prompt, missing, config=config)
            base.update({(prompt, seed): image for seed, image in zip(missing, made, strict=True)})
        found = kpop.compare(pipe, prompt, some, run, config=config, variants=("sanitized", "recovered"))
        return {"original": [base[prompt, seed] for seed in some], **found}

    for word, some in shares.items():
        if some:
            protocol.evaluate(
                pictures, judge, run.config, [word], some, out, settings, batch_size=config.batch_size
            )
    rows = protocol.predictions(out, settings)
    hits: dict[str, list[bool]] = {name: [] for name in COLUMNS}
    for word, some in shares.items():
        accepted = protocol.accepted_labels(word, run.config, judge.labels)
        for name, (role, variant, wanted) in COLUMNS.items():
            if (word in erased) == (role == "erased"):
                hits[name] += [(rows[word, seed, variant][0] in accepted) == wanted for seed in some]
    return hits


def difference(ours: Sequence[bool], theirs: Sequence[bool]) -> Estimate:
    """Points between two ways on the same pictures, with a paired bootstrap interval."""
    return mean_score([100.0 * (int(a) - int(b)) for a, b in zip(ours, theirs, strict=True)])


def in_brackets(one: Estimate, sign: bool = False) -> str:
    form = "+.1f" if sign else ".1f"
    return f"{one.value:{form}} ({one.low:{form}} to {one.high:{form}})"
