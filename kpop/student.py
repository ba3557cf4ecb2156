"""The model in training as the losses call it: eps_theta'(z_t, text, p)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from torch import Tensor

from .batches import Rows
from .config import EraseConfig
from .hidden_prompt import HiddenPrompt
from .mechanisms import read_once, reading
from .methods.losses import Student
from .precision import precision_context
from .recompute import recomputed
from .weights import WeightDelta

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


def student_of(
    pipe: StableDiffusionPipeline, delta: WeightDelta, cfg: EraseConfig, precision: str
) -> Student:
    """student(rows, p, sees): the U-Net's output with theta' = `delta` for B rows, [B, C, h, w].

    sees: [B], whether a row sees p; None: all do. Of cfg only gradient_checkpointing is looked at.
    """
    unet = pipe.unet

    def student(rows: Rows, p: HiddenPrompt | None, sees: Tensor | None) -> Tensor:
        text = rows.text
        if cfg.gradient_checkpointing:
            with precision_context(unet, precision):
                p, text = read_once(pipe, p, rows.prompts, text, sees)

        @contextmanager
        def told() -> Iterator[Tensor]:
            with delta.applied(unet), reading(pipe, p, rows.prompts, text, sees) as states:
                yield states

        again = recomputed(unet, told) if cfg.gradient_checkpointing else nullcontext()
        with precision_context(unet, precision), told() as states, again:
            return unet(rows.z.to(unet.dtype), rows.t, encoder_hidden_states=states, return_dict=False)[0]

    return student
