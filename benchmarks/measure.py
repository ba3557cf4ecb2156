"""One way of training, in a process of its own: seconds, U-Net rows, peak memory. Started by train.py.

python -m benchmarks.measure '{"way": "bank", "settings": {...}, "steps": 200, ...}'    prints a line of JSON
"""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.machine import processor
from benchmarks.reference_loop import rollout_depth, train_plainly
from benchmarks.sd_random import NAME, sd_random
from kpop import models, training
from kpop.config import EraseConfig
from kpop.cuda_graphs import at_replay
from kpop.estimate import estimate_run
from kpop.precision import pick_precision, training_dtype
from kpop.runs import create_run


@dataclass
class Rows:
    """Rows that went through a U-Net forward, and those of them that got a backward."""

    forward: int = 0
    backward: int = 0

    def watch(self, unet: torch.nn.Module) -> None:
        """Counts in the copies of this U-Net too: a deep copy keeps the hook, and the hook keeps self."""

        def count(_module, given, named):
            rows = len(given[0] if given else named["sample"])
            more = rows if torch.is_grad_enabled() else 0
            if not at_replay(lambda: self.add(rows, more)):
                self.add(rows, more)

        unet.register_forward_pre_hook(count, with_kwargs=True)

    def add(self, forward: int, backward: int) -> None:
        self.forward += forward
        self.backward += backward


@dataclass
class Watch:
    """Where the clock and the counter stood before and after each step."""

    rows: Rows
    most: int | None  # steps after which to end, None for all
    until: float | None = None  # the clock at which to end, None for never
    before: tuple[float, int, int] = (0.0, 0, 0)
    began: list[tuple[float, int, int]] = field(default_factory=list)
    ended: list[tuple[float, int, int]] = field(default_factory=list)

    def stand(self) -> tuple[float, int, int]:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter(), self.rows.forward, self.rows.backward

    def start(self) -> None:
        self.before = self.stand()

    def end(self) -> bool:
        self.began.append(self.before)
        self.ended.append(self.stand())
        late = self.until is not None and self.ended[-1][0] >= self.until
        return late or (self.most is not None and len(self.ended) >= self.most)


def measure(asked: dict) -> dict:
    """What train.py puts in its table. asked: way (a key of train.WAYS), model, device, settings, steps,
    precision (of the reference), measure (steps, 1 of them to warm up; None: the whole run), runs (folder);
    and, where given: seconds (after which to end), channels_last, waits (for a line before the clock starts).
    """
    cfg = EraseConfig.from_dict({"seed": 0, **asked["settings"], "steps": asked["steps"]}).resolved()
    pipe = load(asked["model"], asked["device"], cfg.precision)
    if asked.get("channels_last"):
        pipe.unet.to(memory_format=torch.channels_last)
    models.model_hash(pipe)  # of the model, so not timed
    rows = Rows()
    rows.watch(pipe.unet)
    watch = Watch(rows, asked["measure"])
    on_cuda = pipe.unet.device.type == "cuda"
    run = create_run(cfg, asked["runs"], status="starting")
    if asked.get("waits"):
        wait_for_turn()
    loaded = forget_peak(on_cuda)
    started = watch.stand()
    watch.until = started[0] + asked["seconds"] if asked.get("seconds") else None
    if asked["way"].startswith("reference"):
        kind = pick_precision(cfg.precision, pipe) if asked["precision"] == "same" else asked["precision"]
        separate = asked["way"] == "reference-separate"
        train_plainly(cfg, pipe, run, separate, kind, watch.start, lambda step, losses: watch.end())
    else:
        on_step = lambda event: run.request_stop() if watch.end() else None  # noqa: E731
        training.train(cfg, run=run, pipe=pipe, device=asked["device"], on_step=on_step, gate=watch.start)
    over, peak = watch.stand(), peak_memory(on_cuda)
    guessed = estimate_run(cfg, pipe) if asked["way"] == "bank" else None  # takes seconds
    if asked.get("waits"):
        print("over", flush=True)  # the next may start its clock
    which = {"reference": [""], "reference-separate": ["", " removal"], "fresh": [""]}.get(asked["way"], [])
    depths = [sum(rollout_depth(cfg, step, one) for one in which) for step in range(1, cfg.steps + 1)]
    return {
        "run": str(run.path),
        "whole": len(watch.ended) == cfg.steps,
        "limited": watch.until is not None,
        "setup": watch.began[0][0] - started[0],
        "bank_rows": watch.began[0][1] - started[1],
        "between": sum(b[0] - e[0] for b, e in zip(watch.began[1:], watch.ended, strict=False)),
        "finish": over[0] - watch.ended[-1][0],
        "seconds": over[0] - started[0],
        "steps": [[b[i] - a[i] for i in range(3)] for a, b in zip(watch.began, watch.ended, strict=True)],
        "depths": depths,
        "peak": peak,
        "estimate": guessed and guessed.memory - (0 if on_cuda else guessed.weights),
        "loaded": loaded,
        "machine": machine(pipe),
        "precision": pick_precision(cfg.precision, pipe),
        "batch_size": cfg.batch_size,
    }


def wait_for_turn() -> None:
    """Tell that all is loaded, and wait for a line; without one the other end is gone."""
    print("ready", flush=True)
    if not sys.stdin.readline():
        sys.exit(1)


def load(model: str, device: str, precision: str):
    """The pipeline as `kpop train` loads it; "sd-random" is built here."""
    kind = training_dtype(precision, device)
    if model == NAME:
        dtype = torch.bfloat16 if kind == "bf16" else torch.float32
        return sd_random(str(models.pick_device(device)), dtype)
    return models.load_pipeline(model, device, kind)


def forget_peak(on_cuda: bool) -> int:
    """Bytes held now; the peak counts from here."""
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak of the resident size
    except OSError:
        pass  # then the peak is that of loading, if that was higher
    return peak_memory(False)


def peak_memory(on_cuda: bool) -> int:
    """Bytes: torch's peak on CUDA, else the peak resident size of this process."""
    if on_cuda:
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss would count what the process was before it became Python
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def machine(pipe) -> str:
    if pipe.unet.device.type == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"CPU {processor()}, {torch.get_num_threads()} torch threads, torch {torch.__version__}"


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
