"""Gradient checkpointing: the U-Net's blocks keep no activations and run again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def recomputed(unet: nn.Module, again: Callable[[], AbstractContextManager]) -> Iterator[None]:
    """Inside the block forwards of the U-Net keep only what enters its blocks.

    again(): the state to run a block in once more, which happens after the block of this context is over:
    without it the backward pass would see theta and no p. Autocast is remembered by torch.
    """

    def run(part: Callable, *given: object, **named: object):
        return checkpoint(
            part,
            *given,
            use_reentrant=False,
            preserve_rng_state=False,  # nothing is random in a U-Net without dropout
            context_fn=lambda: (nullcontext(), again()),
            **named,
        )

    unet.enable_gradient_checkpointing(run)
    try:
        yield
    finally:
        unet.disable_gradient_checkpointing()
