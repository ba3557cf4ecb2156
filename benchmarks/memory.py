"""Memory that a run is told to take, beside what its process then grows by: on a CPU, the embedded model.

    python -m benchmarks.memory --out docs/benchmarks.md

A process of its own for each setting, church with a bank; growth of its resident size from the loaded model
to its peak in --steps steps. What the estimate adds to the tensors (kpop.estimate.KERNELS, GAPS) was found on
the settings of FOUND_ON; those of OTHERS were looked at after it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.marked_part import put

FOUND_ON = {
    "the default: batch 4, bf16": {},
    "batch 2": {"batch_size": 2},
    "batch 8": {"batch_size": 8},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "all parameters": {"trainable": "full"},
    "fp32": {"precision": "fp32"},
    "k = 10": {"prompt_tokens_factor": 10},
    "batch 6": {"batch_size": 6},
    "batch 12": {"batch_size": 12},
    "five concepts": {"concepts": ["church", "truck", "horn", "cassette", "parachute"]},
    "additive": {"mechanism": "additive"},
    "token": {"mechanism": "token"},
    "ESD": {"method": "esd"},
    "all but cross-attention, fp32": {"trainable": "noxattn", "precision": "fp32"},
    "k = 10, gradient checkpointing": {"prompt_tokens_factor": 10, "gradient_checkpointing": True},
    "batch 8, gradient checkpointing": {"batch_size": 8, "gradient_checkpointing": True},
}
OTHERS = {
    "batch 3": {"batch_size": 3},
    "batch 16": {"batch_size": 16},
    "k = 4": {"prompt_tokens_factor": 4},
    "keys and values": {"trainable": "kv"},
    "amortized": {"mechanism": "amortized"},
    "CA": {"method": "ca"},
    "ESD, batch 8": {"method": "esd", "batch_size": 8},
    "ESD, gradient checkpointing": {"method": "esd", "gradient_checkpointing": True},
    "batch 6, gradient checkpointing": {"batch_size": 6, "gradient_checkpointing": True},
    "all parameters, gradient checkpointing": {"trainable": "full", "gradient_checkpointing": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--out", type=Path, help="markdown file whose marked part is replaced")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        put(table(asked, Path(folder)), "memory", asked.out)


def table(asked: argparse.Namespace, folder: Path) -> str:
    lines, told = [], {}
    for name, settings in (FOUND_ON | OTHERS).items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        told = grown(settings, asked.steps, folder)
        real, guess = told["peak"] - told["loaded"], told["estimate"]
        cells = [
            name, "yes" if name in FOUND_ON else "", f"{guess / 2**20:.0f}", f"{real / 2**20:.0f}",
            f"{100 * (guess / real - 1):+.0f} %",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    head = [
        f"    python -m benchmarks.memory{f' --steps {asked.steps}' if asked.steps != 25 else ''}", "",
        f"emoji, church, {asked.steps} steps; {told['machine']}.", "",
        "| a run | overhead found on it | estimated MB | grew by, MB | estimate off by |",
        "|---|---|---:|---:|---:|",
    ]  # fmt: skip
    return "\n".join(head + lines) + "\n"


def grown(settings: dict, steps: int, folder: Path) -> dict:
    """What measure.py tells of the first steps of a run."""
    fixed = {"model": "emoji", "concepts": ["church"], "sample_every": 0, "key_share": 0.0}
    order = {
        "way": "bank", "model": "emoji", "device": "cpu", "settings": {**fixed, **settings}, "steps": 340,
        "measure": steps, "runs": str(folder / "runs"),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.measure", json.dumps(order)], text=True, check=True,
        stdout=subprocess.PIPE, cwd=Path(__file__).resolve().parent.parent,
        env={**os.environ, "KPOP_CACHE": str(folder / "cache")},
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
