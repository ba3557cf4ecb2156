"""How well each way of benchmarks.train erased, kept and hid: the same judge, words and seeds for all."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from pathlib import Path

import kpop
from kpop import models
from kpop.cli import seed_list
from kpop.config import concept_name
from kpop.evaluation import detectors, protocol

FIGURES = {
    "erased": ("base-1", "ESR-1", "recovery-1"),
    "retained": ("base-1", "PSR-1", "PSR-1 with key"),
}


def quality_table(asked: argparse.Namespace, told: dict[str, dict]) -> str:
    """Markdown, a row a way whose run is whole. told: way -> what measure.py told of it."""
    from benchmarks.train import WAYS

    judge, seeds = detectors.load(asked.judge), seed_list(asked.seeds)
    pipe = kpop.load_pipeline(asked.model, device=asked.device)
    config = kpop.GenerationConfig().resolved(asked.model)
    base: dict[tuple[str, int], object] = {}  # the same pictures for all ways

    def pictures(run):
        def draw(prompt: str, some: list[int]) -> dict:
            missing = [seed for seed in some if (prompt, seed) not in base]
            if missing:
                made = kpop.generate(pipe, prompt, missing, config=config)
                base.update({(prompt, seed): image for seed, image in zip(missing, made, strict=True)})
            variants = ("sanitized", "recovered")
            found = kpop.compare(pipe, prompt, some, run, config=config, variants=variants)
            return {"original": [base[prompt, seed] for seed in some], **found}

        return draw

    heads = [f"{role}: {name}" for role, names in FIGURES.items() for name in names]
    lines = [f"    python -m benchmarks.train {shlex.join(sys.argv[1:])}", "",
             f"{asked.steps[0]} steps, seeds {asked.seeds}, prompt \"a WORD\", {config.steps} sampling "
             f"steps, guidance {config.guidance_scale}; percent of pictures, 95 % interval in brackets.", "",
             f"| way | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]  # fmt: skip
    for way, one in told.items():
        if not one["whole"]:
            lines.append(f"| {WAYS[way]} | not trained to its end |{' |' * (len(heads) - 1)}")
            continue
        run = kpop.open_run(Path(one["run"]))
        words = [concept_name(concept) for concept in (*run.config.concepts, *(run.config.retain or ()))]
        with tempfile.TemporaryDirectory() as folder:
            found = protocol.evaluate(
                pictures(run), judge, run.config, words, seeds, folder,
                {"way": way, "model_hash": models.model_hash(pipe), "config": json.dumps(config.to_dict())},
                batch_size=config.batch_size,
            )  # fmt: skip
        cells = []
        for role, names in FIGURES.items():
            rates = [found.summary.get(role, {}).get(name) for name in names]
            cells += [f"{r.value:.1f} ({r.low:.0f} to {r.high:.0f})" if r is not None else "" for r in rates]
        lines.append(f"| {WAYS[way]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
