"""How long a run will take on this machine: a few rows are timed, the run's rows counted."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from .config import EraseConfig, GenerationConfig
from .continual import Forgotten
from .estimate import bank_rows, rows_of_steps
from .precision import pick_precision, precision_context
from .weights import WeightDelta

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

SMALL = 32  # latent pixels a side up to which several rows are timed at once
ROUNDS = 2


@dataclass(frozen=True)
class Pace:
    """Seconds a row: through the U-Net forward, and forward and backward to its cross-attention."""

    forward: float
    both: float


def measure_pace(pipe: StableDiffusionPipeline) -> Pace:
    """Time a few rows in the precision that training would pick; nothing of the pipeline changes."""
    unet = pipe.unet
    delta = WeightDelta.create(unet, "xattn")
    tensors = list(delta.tensors.values())
    count = 8 if unet.config.sample_size <= SMALL else 1  # a large model's backward takes memory by the row
    side, width = unet.config.sample_size, unet.config.cross_attention_dim
    z = torch.zeros(count, unet.config.in_channels, side, side, device=unet.device, dtype=unet.dtype)
    text = torch.zeros(count, pipe.tokenizer.model_max_length, width, device=unet.device, dtype=unet.dtype)
    precision = pick_precision("auto", pipe)

    def timed(rows: int, backward: bool) -> float:
        began = time.perf_counter()
        with torch.set_grad_enabled(backward), precision_context(unet, precision):
            with delta.applied(unet):
                eps = unet(z[:rows], 1, encoder_hidden_states=text[:rows], return_dict=False)[0]
            if backward:
                torch.autograd.grad(eps.float().sum(), tensors)
        if unet.device.type == "cuda":
            torch.cuda.synchronize(unet.device)
        return time.perf_counter() - began

    # The first round makes kernels, and other programs take their time: neither is the run's. By turns, so
    # that a slow moment is not all of one kind's.
    rounds = [(timed(count, False), timed(count, True)) for _ in range(1 + ROUNDS)]
    forward, both = (min(seconds) / count for seconds in zip(*rounds, strict=True))
    return Pace(forward, both)


def seconds_of(
    cfg: EraseConfig, pipe: StableDiffusionPipeline, pace: Pace, earlier: Sequence[Forgotten] = ()
) -> float:
    """Seconds from the first trajectory to the last sample picture, where nothing is in the cache.

    cfg: resolved. earlier: continual.earlier_of(cfg). Raises InputError for a method without steps.
    """
    rows, backward = rows_of_steps(cfg, pipe.unet, earlier)
    steps = backward * pace.both + (rows - backward) * pace.forward
    bank = bank_rows(cfg, earlier)
    # Two pictures each of three variants, after the last step too; before the first, of two.
    pictures = 4 + 6 * -(-cfg.steps // cfg.sample_every) if cfg.sample_every else 0
    return steps + (bank + pictures * picture_rows(cfg.model)) * pace.forward


def picture_rows(model: str) -> int:
    """U-Net rows of one guided picture."""
    return 2 * GenerationConfig().resolved(model).steps
