"""The one training loop of the build: AdamW, warm-up and cosine, EMA, checkpoints that resume exactly."""

import math
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm


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
    checkpoint_every: int = 250,
) -> None:
    """Train `model` in place until `steps`; with `ema_decay` it ends holding the averaged weights.

    `loss_of(step)` draws its own batch from (seed, step), so a build that was interrupted goes on from
    `work/<name>.pt` as if it had not been. A finished stage returns at once.
    """
    checkpoint = work / f"{name}.pt"
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=weight_decay, fused=True)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(ema_decay)
    )
    done = 0
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        done = state["step"]
        model.load_state_dict(state["model"])
        average.module.load_state_dict(state["average"])
        average.n_averaged.fill_(done > min(200, steps // 4))
        optimizer.load_state_dict(state["optimizer"])
    running = None
    with tqdm(total=steps, initial=done, desc=name, unit="step", mininterval=5) as bar:
        for step in range(done, steps):
            loss = loss_of(step)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * rate_at(step, steps)
            optimizer.step()
            # A short run would never leave its start behind with the full decay.
            if ema_decay and step >= min(200, steps // 4):
                average.update_parameters(model)
            running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
            bar.set_postfix(loss=f"{running:.4f}", refresh=False)
            bar.update()
            if (step + 1) % checkpoint_every == 0 or step + 1 == steps:
                state = {
                    "model": model.state_dict(),
                    "average": average.module.state_dict(),
                    "step": step + 1,
                }
                state |= {"optimizer": optimizer.state_dict()}
                torch.save(state, checkpoint.with_suffix(".tmp"))
                os.replace(checkpoint.with_suffix(".tmp"), checkpoint)
    if ema_decay:
        model.load_state_dict(average.module.state_dict())


def is_finished(name: str, work: Path, steps: int) -> bool:
    """Whether `fit` would return at once: what it learns from need not be made again."""
    checkpoint = work / f"{name}.pt"
    return checkpoint.is_file() and torch.load(checkpoint, weights_only=True, mmap=True)["step"] >= steps


def rate_at(step: int, steps: int) -> float:
    """Share of the learning rate at `step`: a short linear rise, then half a cosine down to nothing."""
    return min(1.0, (step + 1) / max(1, min(200, steps // 10))) * 0.5 * (1 + math.cos(math.pi * step / steps))


def autocast(device: torch.device) -> torch.autocast:
    """bf16 where the processor has units for it, else plain fp32."""
    able = device.type == "cuda" or (device.type == "cpu" and torch.cpu._is_avx512_bf16_supported())
    return torch.autocast(device.type, torch.bfloat16, enabled=able)
