"""What descends: p of a concept with its optimizer, and one bounded step of an optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .hidden_prompt import HiddenPrompt
from .weights import distance


@dataclass
class TrainedPrompt:
    """p of one concept while it is trained. tensors: as HiddenPrompt.tensors."""

    start: HiddenPrompt
    tensors: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer

    def live(self) -> HiddenPrompt:
        """p as it is now, its tensors those that descend."""
        return self.start.holding(self.tensors)

    def frozen(self) -> HiddenPrompt:
        """The same, without a gradient."""
        return self.start.holding({name: tensor.detach() for name, tensor in self.tensors.items()})


def rate_left(step: int, steps: int, decay: float) -> float:
    """Share of the learning rate at `step` (1..steps): 1, then falling to 0 over the last `decay` of them."""
    return 1.0 if decay == 0 else min(1.0, (1 - (step - 1) / steps) / decay)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of the next step; each step sets it anew, so a resumed run needs no memory of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def descend(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], loss: Tensor, radius: float | None
) -> None:
    """One step of the optimizer on `tensors` alone, not farther (L2) than `radius` from where they are."""
    parameters: Sequence[Tensor] = list(tensors.values())
    for parameter, gradient in zip(
        parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True
    ):
        parameter.grad = gradient
    before = None if radius is None else {name: tensor.detach().clone() for name, tensor in tensors.items()}
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if before is not None:
        with torch.no_grad():
            moved = distance(tensors, before)
            if moved > radius:
                for name, tensor in tensors.items():
                    tensor.copy_(before[name] + (tensor - before[name]) * (radius / moved))
