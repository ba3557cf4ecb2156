"""Keys made without the key: by Eq. 5 from a new random p, the sanitized weights frozen.

Whoever holds a run's weights and its base model can do this. What it recovers, beside the true key at the
same number of steps, says how secret the key is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from . import models
from .batches import BankBatches
from .config import Concept, EraseConfig
from .descent import descend, new_prompts, prompt_rate, set_rate
from .disk import locked
from .errors import RunError
from .forging_jobs import forged_path, forging_steps
from .hidden_prompt import HiddenPrompt
from .key_sealing import check_open
from .loaded_weights import check_unchanged
from .methods.kpop import transfer
from .precision import pick_precision, training_dtype
from .student import student_of
from .trajectories import Bank, Sampler, cache_folder
from .weights import WeightDelta

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

    from .runs import Run

FORGING_SEED = 20240326  # other than any run's


def forge_key(
    pipe: StableDiffusionPipeline,
    delta: WeightDelta,
    cfg: EraseConfig,
    concept: Concept,
    steps: int,
    seed: int,
    between: Callable[[], None] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> HiddenPrompt:
    """p after `steps` steps of Eq. 5 towards one concept, with theta' = `delta` fixed.

    cfg: the run's, resolved, whose rate, mechanism, sites and size of p are used. seed: of the random start
    and of the rows, other than the run's. between: called before every step; may raise.
    on_step(n): after the nth. The targets are the base model's, so pipe's U-Net must hold theta.
    """
    cfg = replace(
        cfg, concepts=(concept,), retain=(), retain_weight=0.0, key_retain_weight=0.0, steps=steps, seed=seed,
        latents="bank", base_run=None, prompt_sharing="per-concept",
    )  # fmt: skip
    check_unchanged(pipe)
    digest, precision = models.model_hash(pipe), pick_precision(cfg.precision, pipe)
    sampler = Sampler(cfg.rollout_steps, cfg.rollout_guidance, precision)
    batches = BankBatches(pipe, cfg, Bank(pipe, sampler, digest, cache_folder(), between))
    prompt = new_prompts(pipe, cfg, digest)[0]

    student = student_of(pipe, delta, cfg, precision)
    for step in range(1, steps + 1):
        if between is not None:
            between()
        set_rate(prompt.optimizer, prompt_rate(step, cfg))
        loss, _ = transfer(student, batches.draw(step), prompt.live(), cfg)
        descend(prompt.optimizer, prompt.tensors, loss, cfg.rho_p)
        if on_step is not None:
            on_step(step)
    return prompt.frozen()


def forge_keys(
    run: Run,
    device: str = "auto",
    between: Callable[[], None] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> list[Path]:
    """Forge a key of every concept of a run into its secret folder, in as many steps as the true ones had.

    between: as in `forge_key`. on_step(n) counts over all of them. Raises KpopError, also where the run was
    sealed or trained on meanwhile.
    """
    cfg, made = run.config.resolved(), []
    pipe = models.load_pipeline(cfg.model, device, training_dtype(cfg.precision, device))
    stamp, steps = run.weights_stamp(), forging_steps(cfg)
    delta = WeightDelta.load(run.weights_path).to(pipe.unet.device, pipe.unet.dtype)
    for index, concept in enumerate(cfg.concepts):
        told = None if on_step is None else lambda n, done=index * steps: on_step(done + n)
        key = forge_key(pipe, delta, cfg, concept, steps, FORGING_SEED + index, between, told)
        with locked(run.path.parent / ".queue.lock"):  # a run is sealed and resumed under it
            check_open(run)
            if run.weights_stamp() != stamp:
                raise RunError(f"Run {run.id} was trained on meanwhile. Forge its key again.")
            path = forged_path(run, index, concept)
            key.save(path)
        made.append(path)
    return made
