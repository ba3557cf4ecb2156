"""The loop: transfer step on p, removal step on theta', probes, checkpoint; stop, resume and keep."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import models
from .batches import BankBatches, Batches
from .checkpoint import load_checkpoint, save_checkpoint
from .config import EraseConfig, concept_name
from .continual import keep_earlier_keys, start_of
from .cuda_graphs import Graphs, found_by, worth_it
from .descent import move, new_prompts, prompt_rate, rate_left, removal_steps, set_rate
from .errors import InputError
from .fresh_batches import FreshBatches
from .health import Diverged, Health, check_fits, device_in_words
from .interrupts import interrupts
from .loaded_weights import check_unchanged
from .method_table import METHODS
from .methods import load_method
from .precision import pick_precision, training_dtype
from .probes import Cosines, Samples
from .processes import Onlooker, Processes, launched
from .run_texts import all_texts
from .run_trainer import end_run, taken
from .runs import Run, create_run, with_seed_of
from .student import student_of
from .trajectories import Bank, Sampler, cache_folder
from .weights import WeightDelta

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

COSINE_POINTS = 100  # of the curve over a run
STATUS_EVERY = 1.0  # seconds
Gate = Callable[[], None]


@dataclass(frozen=True)
class StepEvent:
    """One training step that is over. step: 1..steps.

    losses: l_transfer, l_erase (L1), l_recover (L2), and l_retain, l_key_retain where there are such rows;
    the first and the last of them alone in steps that are p's alone.
    cosines: {"raw" | "seen": {text: cosine of p}}, empty on most steps.
    seconds: of this step; eta_s: to the end.
    """

    step: int
    steps: int
    losses: dict[str, float]
    cosines: dict[str, dict[str, float]]
    seconds: float
    eta_s: float


class _Stopped(Exception):
    """The run's `stop` file was seen before training began."""


def train(
    cfg: EraseConfig,
    runs_dir: str | Path | None = None,
    *,
    run: Run | None = None,
    pipe: StableDiffusionPipeline | None = None,
    on_step: Callable[[StepEvent], None] | None = None,
    device: str = "auto",
    gate: Gate | None = None,
) -> Run:
    """Erase cfg.concepts, with KPOP hiding them in a key; returns the run, whose folder holds everything.

    run: go on with it, from its checkpoint if it has one; else a new run folder is made in runs_dir.
    on_step: called after every step. gate: called before every step and may wait. A file `stop` in the run
    folder, or Ctrl-C, ends it after the current step with weights, key and checkpoint written. In several
    processes that accelerate launched, each calls this with the same cfg; see processes.py.
    Raises InputError, ModelError, RunError; whatever is raised, the last checkpoint stays good.
    """
    cfg, processes = cfg.resolved(), launched(device)
    with ExitStack() as held:
        if processes.leads:
            run = create_run(cfg, runs_dir, "local", "starting", device) if run is None else run
            run = held.enter_context(taken(run, cfg))
        path = processes.agree(str(run.path) if run is not None else None)
        run = run if processes.leads else Onlooker(Path(path))
        _train(with_seed_of(run, cfg), run, pipe, on_step, device, gate or (lambda: None), processes)
    return run


def _train(
    cfg: EraseConfig,
    run: Run,
    pipe: StableDiffusionPipeline | None,
    on_step: Callable[[StepEvent], None] | None,
    device: str,
    gate: Gate,
    processes: Processes,
) -> None:
    try:
        if pipe is None:
            pipe = models.load_pipeline(cfg.model, device, training_dtype(cfg.precision, device))
        elif models.model_name(pipe) not in ("", cfg.model):
            if models.model_hash(pipe) != models.model_hash(cfg.model):
                raise InputError(f"The pipeline given is not {cfg.model}; give the one the settings name.")
        with interrupts() as interrupted, device_in_words(cfg, pipe):
            _Training(cfg, run, pipe, on_step, gate, interrupted, processes).run_all()
    except KeyboardInterrupt:
        end_run(run, "interrupted", "It was interrupted from the keyboard.")
        raise
    except Exception as error:
        end_run(run, "failed", str(error))
        raise


@dataclass
class _Training:
    """One call of `train`: everything between loading the model and leaving the run folder complete."""

    cfg: EraseConfig
    run: Run
    pipe: StableDiffusionPipeline
    on_step: Callable[[StepEvent], None] | None
    gate: Gate
    interrupted: threading.Event
    processes: Processes = Processes()
    seconds: list[float] = field(default_factory=list)
    told_at: float = 0.0

    def run_all(self) -> None:
        cfg, unet = self.cfg, self.pipe.unet
        for text in all_texts(cfg):
            models.check_text(self.pipe, text)
        self.precision = pick_precision(cfg.precision, self.pipe)
        check_unchanged(self.pipe)  # or its trajectories would be kept as another model's
        self.model_hash = models.model_hash(self.pipe)
        self.run.update_status(model_hash=self.model_hash, step=0, steps=cfg.steps)
        self.method = load_method(cfg.method)
        sampled = cfg.sample_every and self.processes.leads
        samples = Samples(self.pipe, cfg, self.run, self.precision, self._stopped) if sampled else None
        with ExitStack() as held:
            self.base, self.earlier, digest = start_of(cfg, self.run, self.model_hash)
            check_fits(cfg, self.pipe, self.earlier)
            if self.base is not None:
                held.enter_context(self.base.to(unet.device, unet.dtype).applied(unet))
            if samples is not None:
                self.gate()
                samples.begin()
            if not METHODS[cfg.method].stepwise:
                self._solve(samples)
                return
            self._prepare()
            step = load_checkpoint(
                self.run, digest, self.delta.tensors, self.optimizer, self._named_prompts()
            )
            self.run.truncate_metrics(step)
            self.health = Health(cfg, self.run.metrics(None)) if step else self.health
            batches = self._first_batches(digest)
            if batches is None:
                end_run(self.run, "stopped")
                return
            try:
                self._loop(batches, samples, digest, step)
            except Diverged as error:
                self._keep_last_good(digest, error.step)
                raise

    def _solve(self, samples: Samples | None) -> None:
        """theta' at once: the one step of a method without descent, which needs no checkpoint."""
        self.run.update_status(state="running")
        self.run.truncate_metrics(0)
        self.prompts, self.cosines_at = [], lambda step: False
        began = time.perf_counter()
        self.delta, losses = self.method.solve(self.pipe, self.cfg, self.model_hash)
        self.seconds.append(time.perf_counter() - began)
        self._tell(1, losses)
        self._keep()
        self._sample(samples, 1)
        self.run.update_status(state="done", step=1, eta_s=None, error=None)

    def _prepare(self) -> None:
        cfg, unet = self.cfg, self.pipe.unet
        self.delta = WeightDelta.create(unet, cfg.trainable, self.model_hash)
        self.student = student_of(self.pipe, self.delta, cfg, self.precision)
        self.optimizer = torch.optim.Adam(list(self.delta.tensors.values()), cfg.learning_rate, fused=True)
        self.prompts = new_prompts(self.pipe, cfg, self.model_hash)
        cosines_every = max(1, cfg.steps // COSINE_POINTS)
        self.cosines_at = lambda step: (
            self.prompts and (step == 1 or step % cosines_every == 0 or step == cfg.steps)
        )
        self.cosines = Cosines(self.pipe, cfg) if self.prompts else None
        self.health = Health(cfg)
        self.graphs = Graphs() if worth_it(cfg, unet.device, self.processes.count) else None

    def _named_prompts(self) -> dict[str, tuple[dict[str, Tensor], torch.optim.Optimizer]]:
        return {str(i): (prompt.tensors, prompt.optimizer) for i, prompt in enumerate(self.prompts)}

    def _batches(self, digest: str) -> Batches:
        cfg = self.cfg
        sampler = Sampler(cfg.rollout_steps, cfg.rollout_guidance, self.precision)
        if cfg.latents == "fresh":
            held = lambda: self.delta.applied(self.pipe.unet)  # noqa: E731
            return FreshBatches(self.pipe, cfg, sampler, held, self.earlier, self.processes)
        bank = Bank(self.pipe, sampler, digest, cache_folder(), self._between)
        return BankBatches(self.pipe, cfg, bank, self.earlier, self.processes)

    def _first_batches(self, digest: str) -> Batches | None:
        """None when a stop was asked for. The leading process fills the bank, the others read it."""
        found = None
        if self.processes.leads:
            try:
                found = self._batches(digest)
            except _Stopped:
                pass
        if self.processes.agree(found is None):
            return None
        return found or self._batches(digest)

    def _between(self) -> None:
        if not self.processes.leads:
            return
        self.gate()
        if self.interrupted.is_set():
            raise KeyboardInterrupt
        if self.run.stop_requested:
            raise _Stopped

    def _loop(self, batches: Batches, samples: Samples | None, digest: str, step: int) -> None:
        cfg = self.cfg
        self.run.update_status(state="running", step=step)
        if samples is not None and samples.left_out(step):
            self._sample(samples, step)
        saved = None
        while step < cfg.steps:
            if self.processes.leads:
                self.gate()
            if self.processes.agree(self._stopped()):
                break
            began = time.perf_counter()
            losses = self._step(batches, step + 1)
            step += 1
            self.seconds.append(time.perf_counter() - began)
            self._tell(step, losses)
            if step % cfg.checkpoint_every == 0 or step == cfg.steps:
                self._checkpoint(step, digest)
                saved = step
            self._sample(samples, step)  # after the checkpoint: nothing that happens meanwhile costs a step
        if saved != step:
            self._checkpoint(step, digest)
        self._keep()
        if self.interrupted.is_set() and step < cfg.steps:
            raise KeyboardInterrupt
        state = "done" if step == cfg.steps else "stopped"
        self.run.update_status(state=state, step=step, eta_s=None, error=None)

    def _stopped(self) -> bool:
        return self.run.stop_requested or self.interrupted.is_set()

    def _sample(self, samples: Samples | None, step: int) -> None:
        if samples is not None and samples.due(step):
            self.gate()
            samples.save(step, self.delta, [prompt.frozen() for prompt in self.prompts])

    def _step(self, batches: Batches, step: int) -> dict[str, float]:
        """One alternation: p, if any, moves with theta' fixed (Eq. 6), then theta' with p fixed (Eq. 7).

        The last steps may be p's alone.
        """
        cfg = self.cfg
        batch = batches.draw(step)
        losses, fixed = {}, None
        if self.prompts:
            prompt = self.prompts[batch.concept_index % len(self.prompts)]
            set_rate(prompt.optimizer, prompt_rate(step, cfg))
            losses, gradients = found_by(
                self.method.transfer, self.student, batch, prompt.live(), cfg, prompt.tensors, self.graphs
            )
            move(prompt.optimizer, prompt.tensors, gradients, cfg.rho_p, self.processes)
            fixed = prompt.frozen()
            if batch.decoys or batch.kept_keys:
                others = tuple(other.frozen() for other in self.prompts if other is not prompt)
                batch = replace(batch, others=others)
        removals = removal_steps(cfg.steps, cfg.key_share)
        if step <= removals:
            set_rate(self.optimizer, cfg.learning_rate * rate_left(step, removals, cfg.rate_decay))
            named, gradients = found_by(
                self.method.removal, self.student, batch, fixed, cfg, self.delta.tensors, self.graphs
            )
            move(self.optimizer, self.delta.tensors, gradients, cfg.rho, self.processes)
            losses |= named
        values = torch.stack(list(losses.values()))
        self.processes.average([values])
        found = dict(zip(losses, values.tolist(), strict=True))
        moved = [self.delta.tensors, *([prompt.tensors] if self.prompts else [])]
        self.health.check(step, found, [tensor for part in moved for tensor in part.values()])
        return found

    def _tell(self, step: int, losses: dict[str, float]) -> None:
        cosines = {}
        if self.cosines_at(step):
            with self.delta.applied(self.pipe.unet):
                cosines = self.cosines([prompt.frozen() for prompt in self.prompts])
        took = self.seconds[-1]
        recent = sorted(self.seconds[-50:])
        eta = recent[len(recent) // 2] * (self.cfg.steps - step)
        event = StepEvent(step, self.cfg.steps, losses, cosines, took, eta)
        row = {"step": step, **losses, "seconds": round(took, 4)}
        self.run.append_metrics({**row, "cosines": cosines} if cosines else row)
        now = time.monotonic()
        if now - self.told_at >= STATUS_EVERY:
            self.run.update_status(step=step, eta_s=round(eta, 1))
            self.told_at = now
        if self.on_step is not None:
            self.on_step(event)

    def _checkpoint(self, step: int, digest: str) -> None:
        if self.processes.leads:
            parts = (self.delta.tensors, self.optimizer, self._named_prompts())
            save_checkpoint(self.run, step, digest, *parts, last=step == self.cfg.steps)

    def _keep_last_good(self, digest: str, bad: int) -> None:
        """Weights and key of the newest checkpoint before step `bad`, if there is one and none were kept."""
        if not self.processes.leads or self.run.weights_path.exists():
            return
        if load_checkpoint(
            self.run, digest, self.delta.tensors, self.optimizer, self._named_prompts(), before=bad
        ):
            self._keep()

    def _keep(self) -> None:
        """Key files first, then the weights that need them: weights without their key are of no use."""
        if not self.processes.leads:
            return
        for i, prompt in enumerate(self.prompts):
            concept = None if self.cfg.prompt_sharing == "shared" else concept_name(self.cfg.concepts[i])
            prompt.frozen().save(self.run.key_path(concept))
        keep_earlier_keys(self.run, self.earlier)
        if self.delta is not None:
            self.delta.over(self.base).save(self.run.weights_path)
