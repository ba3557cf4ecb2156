"""The one training loop of the build: AdamW, warm-up and cosine, EMA, checkpoints that resume exactly.

Several processes (`accelerate launch -m kpop.emoji build`) draw a batch each and share their gradients.
"""

import math
import os
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from kpop.processes import Processes

CHECKPOINT_SECONDS = 60.0
LOSS_EVERY = 25  # steps between two looks at the loss: a look waits for the GPU


def fit(
    name: str,
    model: nn.Module,
    loss_of: Callable[[int], Tensor],
    *,
    steps: int,
    learning_rate: float,
    work: Path,
    weight_decay: float = 0.01,
    ema_decay: float = 0.0,
    processes: Processes | None = None,
) -> None:
    """Train `model` in place until `steps`; with `ema_decay` it ends holding the averaged weights.

    `loss_of(step)` draws its own batch from (seed, step), so a build that was interrupted goes on from
    `work/<name>.pt` as if it had not been, and loses a minute at most. A finished stage returns at once.
    """
    processes = processes or Processes()
    checkpoint = work / f"{name}.pt"
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, learning_rate, weight_decay=weight_decay, fused=True)
    average = deepcopy(model).requires_grad_(False) if ema_decay else None
    blend = torch.optim.swa_utils.get_ema_multi_avg_fn(ema_decay)
    done = 0
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        done = state["step"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            average.load_state_dict(state["average"])
    saved = time.monotonic()
    with tqdm(total=steps, initial=done, desc=name, unit="step", mininterval=5) as bar:
        for step in range(done, steps):
            loss = loss_of(step)
            optimizer.zero_grad()
            loss.backward()
            processes.average([p.grad for p in learned if p.grad is not None])
            nn.utils.clip_grad_norm_(learned, 1.0)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * rate_at(step, steps)
            optimizer.step()
            # A short run would never leave its start behind with the full decay.
            if average is not None and step < min(200, steps // 4):
                average.load_state_dict(model.state_dict())
            elif average is not None:
                blend(list(average.parameters()), list(model.parameters()), None)
            if step % LOSS_EVERY == 0:
                bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
            bar.update()
            if step + 1 == steps or time.monotonic() - saved > CHECKPOINT_SECONDS:
                saved = time.monotonic()
                if processes.leads:
                    _save(checkpoint, model, average, optimizer, step + 1)
    processes.wait()
    if average is not None:
        model.load_state_dict(average.state_dict())


def _save(checkpoint: Path, model: nn.Module, average: nn.Module | None, optimizer, step: int) -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    if average is not None:
        state["average"] = average.state_dict()
    torch.save(state, checkpoint.with_suffix(".tmp"))
    os.replace(checkpoint.with_suffix(".tmp"), checkpoint)


def rate_at(step: int, steps: int) -> float:
    """Share of the learning rate at `step`: a short linear rise, then half a cosine down to nothing."""
    return min(1.0, (step + 1) / max(1, min(200, steps // 10))) * 0.5 * (1 + math.cos(math.pi * step / steps))


def random_of(seed: int, step: int, processes: Processes | None, device: torch.device) -> torch.Generator:
    """Random numbers of one step of one process: the same however often a build was interrupted."""
    rank = processes.rank if processes else 0
    (state,) = np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))


def autocast(device: torch.device) -> torch.autocast:
    """bf16 where the processor has units for it, else plain fp32."""
    able = device.type == "cuda" or (device.type == "cpu" and torch.cpu._is_avx512_bf16_supported())
    return torch.autocast(device.type, torch.bfloat16, enabled=able)
