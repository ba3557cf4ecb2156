"""What a training run costs: a plain loop as in the paper's code against ours, in turns, in one command.

    python -m benchmarks.train --steps 200 1000 --measure-steps 20 --out docs/benchmarks.md
    python -m benchmarks.train --steps 200 --quality --out docs/benchmarks.md
    python -m benchmarks.train --model sd-random --steps 1000 --measure-steps 3 --most-seconds 90 --together \
        --ways bank reference reference-separate fresh --device cuda --out docs/benchmarks.md

Every way runs in a process of its own with the model loaded before the clock starts; the clock ends when
weights and key are on disk. --measure-steps N: the ways of --measure do one step to warm up and N more, and
the rest of their time follows from a line through (depth of the rollout, seconds) and the whole run's depths.
A run of another way that is not over after --most-seconds is extrapolated from all its steps. The ways run in
the order given; bank-keys, only where it is named, is the warm bank with keys seen in training. Every step of
every way moves p and theta' (key_share 0). --quality draws pictures with what the whole runs left and asks
the judge; its command writes that table alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.marked_part import put
from kpop.disk import write_json

WAYS = {
    "reference": "plain loop, z shared by both steps",
    "reference-separate": "plain loop, a z for each step",
    "fresh": "ours, latents fresh",
    "bank": "ours, bank cold",
    "bank-warm": "ours, bank warm",
    "bank-keys": "ours, bank warm, L1 and what is retained see keys",
}
SLOW = ("reference", "reference-separate", "fresh")
OURS = ("key_share", "pair_share", "decoy_share", "kept_key_share")  # not in the plain loop
WITH_KEYS, SEEN = "bank-keys", {"decoy_share": 0.5, "kept_key_share": 0.5}  # asked for by name
WARM = ("bank-warm", WITH_KEYS)  # go on with what the cold bank left
PAPER_ROLLOUT = 50  # sampling steps of the slow ways' rollouts


def main() -> None:
    asked = arguments()
    if asked.work:
        asked.work.mkdir(parents=True, exist_ok=True)
    with contextlib.nullcontext(asked.work) if asked.work else tempfile.TemporaryDirectory() as folder:
        found = measure_all(asked, Path(folder))
        if not asked.quality:
            part = "train" if asked.model == "emoji" else f"train {asked.model}"
            put(cost_table(asked, found), asked.part or part, asked.out)
        else:
            from benchmarks.quality import quality_table

            last = {way: found[way, asked.steps[0]][-1] for way in WAYS if (way, asked.steps[0]) in found}
            put(quality_table(asked, last, Path(folder)), "quality", asked.out)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="emoji", help='"emoji", a diffusers folder, or "sd-random"')
    add("--concept", default="church")
    add("--steps", type=int, nargs="+", default=[200, 1000])
    add("--ways", nargs="+", choices=WAYS, default=[way for way in WAYS if way != WITH_KEYS])
    add("--measure-steps", type=int, help="time this many steps after one to warm up, and extrapolate")
    add("--measure", nargs="*", choices=WAYS, default=list(SLOW), help="ways that --measure-steps is for")
    add("--most-seconds", type=float, help="end the other ways' runs after this long, and extrapolate")
    add("--together", action="store_true", help="load the models of all ways at once, then measure in turns")
    add("--channels-last", action="store_true", help="lay out the U-Net's pictures with channels last")
    add("--rounds", type=int, default=1, help="the table shows medians")
    add("--batch-size", type=int, help="default: the model's")
    add("--set", action="append", default=[], metavar="FIELD=JSON", help="any other setting of all ways")
    add("--reference-precision", choices=("same", "fp32", "bf16"), default="same", help="same: as ours")
    add("--device", default="auto")
    add("--quality", action="store_true", help="judge the weights of the first of --steps, not their cost")
    add("--seeds", default="500-999", help="for --quality: of each erased word, and shared by the retained")
    add(
        "--work",
        type=Path,
        help="folder for runs and what was judged; with it, a broken-off benchmark goes on",
    )
    add("--judge", default="emoji")
    add("--out", type=Path, help="markdown file whose marked part is replaced (default: print)")
    add("--part", help="name of the part that is replaced (default: of the model's costs)")
    asked = parser.parse_args()
    for way in WARM:
        if way in asked.ways and "bank" not in asked.ways[: asked.ways.index(way)]:
            parser.error(f"{way} needs bank before it, which fills its cache")
    asked.settings = {"model": asked.model, "concepts": [asked.concept], "sample_every": 0}
    asked.settings |= dict.fromkeys(OURS, 0.0)
    if asked.batch_size:
        asked.settings["batch_size"] = asked.batch_size
    for pair in asked.set:
        name, _, value = pair.partition("=")
        asked.settings[name] = json.loads(value)
    return asked


def measure_all(asked: argparse.Namespace, folder: Path) -> dict[tuple[str, int], list[dict]]:
    """(way, steps) -> what measure.py told, a round each; the ways take turns, back and forth.

    A way that fails is left out, with a word.
    """
    found: dict[tuple[str, int], list[dict]] = {}
    for number in range(asked.rounds):
        for steps in asked.steps:
            ways = list(asked.ways)
            if number % 2:  # the other way round, but a warm bank after the cold one
                ways = [way for way in reversed(ways) if way not in WARM]
                ways += [way for way in reversed(asked.ways) if way in WARM]
            cache = folder / f"cache-{number}-{steps}"
            turns = [Turn(asked, way, steps, number, folder, cache) for way in ways]
            if asked.together:
                for turn in turns:
                    turn.load()
            for turn in turns:
                turn.measure()
                for each in turns:  # kept at once, should what follows be broken off
                    if each.process is not None and each.process.poll() == 0:
                        each.told()
            for turn in turns:
                told = turn.told()
                if told is not None:
                    found.setdefault((turn.way, steps), []).append(told)
    if not found:
        sys.exit("No way could be measured.")
    return found


class Turn:
    """One way in a process of its own: loaded, measured when it is its turn, and what it told."""

    def __init__(
        self, asked: argparse.Namespace, way: str, steps: int, number: int, folder: Path, cache: Path
    ):
        self.way, self.title, self.process = way, f"{WAYS[way]}, {steps} steps", None
        settings = dict(asked.settings, latents="fresh" if way in SLOW else "bank")
        settings |= SEEN if way == WITH_KEYS else {}
        if way in SLOW:
            settings.setdefault("rollout_steps", PAPER_ROLLOUT)
        partly = asked.measure_steps is not None and way in asked.measure and asked.measure_steps + 1 < steps
        self.order = {
            "way": way, "model": asked.model, "device": asked.device, "settings": settings, "steps": steps,
            "precision": asked.reference_precision, "measure": asked.measure_steps + 1 if partly else None,
            "seconds": None if partly else asked.most_seconds, "channels_last": asked.channels_last,
            "waits": True, "runs": str(folder / "runs"),
        }  # fmt: skip
        self.kept = asked.work / f"{way}-{steps}-{number}.json" if asked.work else None
        self.found, self.cache = None, cache
        if self.kept and self.kept.is_file():
            before = json.loads(self.kept.read_text())
            self.found = before if before["order"] == self.order else None

    def load(self) -> None:
        """Start the process, which loads the model and waits."""
        if self.found is None and self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.measure", json.dumps(self.order)], text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).resolve().parent.parent,
                env={**os.environ, "KPOP_CACHE": str(self.cache)},
            )  # fmt: skip

    def measure(self) -> None:
        """Returns when its clock is over; it may still be writing down what it found."""
        self.load()
        if self.process is None:
            return
        self._until("ready")
        print(f"{self.title} ...", file=sys.stderr, flush=True)
        with contextlib.suppress(BrokenPipeError):  # it died while it loaded
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        self._until("over")

    def _until(self, word: str) -> None:
        for line in self.process.stdout:
            if line.strip() == word:
                return

    def told(self) -> dict | None:
        """What measure.py told, and the whole run's figures; None where it failed."""
        if self.found is None:
            out = self.process.stdout.read()
            if self.process.wait():
                print(f"{self.title}: ended with status {self.process.returncode}", file=sys.stderr)
                return None
            self.found = json.loads(out.splitlines()[-1])
            self.found |= whole_run(self.found)
            if self.kept:
                write_json(self.kept, {**self.found, "order": self.order})
        return self.found


def whole_run(told: dict) -> dict:
    """total (seconds) and rows, back (rows a step): of the run, or of what it would have been.

    A step's seconds and rows are a + b * depth, depth: sampling steps of its rollouts.
    """
    steps, depths = told["steps"], told["depths"]
    if told["whole"]:
        rows, back = (statistics.mean(step[i] for step in steps) for i in (1, 2))
        return {"total": told["seconds"], "rows": rows, "back": back}
    first = min(1, len(steps) - 1)
    later = steps[first:]  # the first step warms up
    seconds, rows, back = (
        predicted(depths[first : len(steps)], [step[i] for step in later], depths) for i in range(3)
    )
    total = told["setup"] + sum(seconds) + told["finish"]
    total += told.get("between", 0.0) * (len(depths) - 1) / max(1, len(steps) - 1)
    if told.get("limited"):  # a run like any other, its first step too
        total += steps[0][0] - seconds[0]
    return {"total": total, "rows": statistics.mean(rows), "back": statistics.mean(back)}


def predicted(depths: list[int], values: list[float], wanted: list[int]) -> list[float]:
    """The least-squares line through (depth, value), at every wanted depth; the mean where it would fall."""
    mean, centre = statistics.mean(values), statistics.mean(depths)
    spread = sum((depth - centre) ** 2 for depth in depths)
    slope = 0.0
    if spread:
        slope = sum((d - centre) * (v - mean) for d, v in zip(depths, values, strict=True)) / spread
    if slope <= 0:
        return [mean] * len(wanted)
    return [mean + slope * (depth - centre) for depth in wanted]


def cost_table(asked: argparse.Namespace, found: dict[tuple[str, int], list[dict]]) -> str:
    first = next(iter(found.values()))[0]
    rounds = f"median of {asked.rounds} rounds" if asked.rounds > 1 else "one round"
    guess = any(one.get("estimate") for many in found.values() for one in many)
    lines = [
        command(), "",
        f"{asked.model}, {asked.concept}, batch {first['batch_size']}, {first['precision']} "
        f"(plain loop: {asked.reference_precision}), {rounds}; {first['machine']}.", "",
        "| way | steps | seconds | of them before step 1 | U-Net rows a step | with backward | bank rows | "
        "times the cold bank | peak MB | of them by training |" + " estimated MB |" * guess,
        "|---|---:|" + "---:|" * (8 + guess),
    ]  # fmt: skip
    for steps in asked.steps:
        base = middle(found.get(("bank", steps)), "total")
        for way in (way for way in WAYS if (way, steps) in found):
            many = found[way, steps]
            whole = all(one["whole"] for one in many)
            total = middle(many, "total")
            ratio = f"{total / base:.1f}" if base else ""
            peak, loaded = middle(many, "peak") / 2**20, middle(many, "loaded") / 2**20
            cells = [
                WAYS[way], str(steps), f"{'' if whole else '~'}{total:.1f}", f"{middle(many, 'setup'):.1f}",
                f"{middle(many, 'rows'):.1f}", f"{middle(many, 'back'):.1f}",
                f"{middle(many, 'bank_rows'):.0f}", ratio, f"{peak:.0f}", f"{peak - loaded:.0f}",
            ]  # fmt: skip
            if guess:
                told = [one["estimate"] for one in many if one["estimate"]]
                cells.append(f"{statistics.median(told) / 2**20:.0f}" if told else "")
            lines.append(f"| {' | '.join(cells)} |")
    on_cpu = first["machine"].startswith("CPU")
    memory = "resident, of a process each" if on_cpu else "torch's on the GPU"
    memory += f"; the estimate is of {'the training' if on_cpu else 'model and training'}" * guess
    lines += ["", "Rows: counted by a hook on the U-Net, all of a batch. Seconds: from the loaded model to "
              f"weights and key on disk, without sample pictures. Memory: {memory}."]  # fmt: skip
    if any(not one["whole"] and not one.get("limited") for many in found.values() for one in many):
        lines += [f"~: timed over {asked.measure_steps} steps after one to warm up, the rest extrapolated by "
                  "the depth of each step's rollout."]  # fmt: skip
    for (way, _), many in found.items():
        if many[0].get("limited") and not many[0]["whole"]:
            lines += [f"~, {WAYS[way]}: ended after {len(many[0]['steps'])} steps, the rest as their mean."]
    return "\n".join(lines) + "\n"


def command() -> str:
    """What was typed, as Markdown, without the place of the work."""
    words = list(sys.argv[1:])
    if "--work" in words:
        at = words.index("--work")
        del words[at : at + 2]
    return f"    python -m benchmarks.train {shlex.join(words)}"


def middle(many: list[dict] | None, name: str) -> float:
    return statistics.median(one[name] for one in many) if many else 0.0


if __name__ == "__main__":
    main()
