"""What descends: p of a concept with its optimizer, and one bounded step of an optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .batches import ALONE, keyed
from .config import EraseConfig, concept_name
from .hidden_prompt import HiddenPrompt
from .method_table import METHODS
from .processes import Processes
from .weights import distance

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


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


def new_prompts(pipe: StableDiffusionPipeline, cfg: EraseConfig, model_hash: str) -> list[TrainedPrompt]:
    """The random starts of a run's keys: one a concept, or one for all; none where the method has no key."""
    if not METHODS[cfg.method].has_key:
        return []
    labels = [concept_name(concept) for concept in cfg.concepts]
    if cfg.prompt_sharing == "shared":
        labels = [", ".join(labels)]
    return [_new_prompt(pipe, cfg, label, i, model_hash) for i, label in enumerate(labels)]


def _new_prompt(
    pipe: StableDiffusionPipeline, cfg: EraseConfig, concept: str, index: int, model_hash: str
) -> TrainedPrompt:
    generator = torch.Generator().manual_seed(keyed(cfg.seed, "prompt", index).getrandbits(63))
    start = start_of_prompt(pipe, cfg, concept, generator, model_hash)
    tensors = {name: nn.Parameter(tensor.to(pipe.unet.device)) for name, tensor in start.tensors.items()}
    kind = torch.optim.Adam if cfg.prompt_optimizer == "adam" else torch.optim.SGD
    return TrainedPrompt(start, tensors, kind(list(tensors.values()), cfg.prompt_learning_rate, fused=True))


def start_of_prompt(
    pipe: StableDiffusionPipeline, cfg: EraseConfig, concept: str, generator: torch.Generator, model_hash: str
) -> HiddenPrompt:
    """p before the first step, of the shape that cfg and the model give it; float32 on the CPU."""
    reads = pipe.text_encoder.get_input_embeddings().weight.shape[-1]
    return HiddenPrompt.create(
        concept,
        pipe.tokenizer.model_max_length,
        reads if cfg.mechanism == "token" else pipe.unet.config.cross_attention_dim,
        cfg.prompt_tokens_factor,
        cfg.prompt_init_std,
        generator,
        cfg.mechanism,
        cfg.sites,
        cfg.separate_kv,
        model_hash,
    )


def rate_left(step: int, steps: int, decay: float) -> float:
    """Share of the learning rate at `step` (1..steps): 1, then falling to 0 over the last `decay` of them."""
    return 1.0 if decay == 0 else min(1.0, (1 - (step - 1) / steps) / decay)


def prompt_rate(step: int, cfg: EraseConfig) -> float:
    """p's learning rate. It falls while p moves alone, or with that of theta' where it never does."""
    return cfg.prompt_learning_rate * rate_left(step, cfg.steps, cfg.key_share or cfg.rate_decay)


def removal_steps(steps: int, key_share: float) -> int:
    """How many of the steps move theta'; after them p learns alone what theta' has come to."""
    return steps - int(key_share * steps)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of the next step; each step sets it anew, so a resumed run needs no memory of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def descend(
    optimizer: torch.optim.Optimizer,
    tensors: dict[str, Tensor],
    loss: Tensor,
    radius: float | None,
    processes: Processes = ALONE,
) -> None:
    """One step of the optimizer on `tensors` alone, down the gradient of `loss`; else as `move`."""
    move(optimizer, tensors, gradients_of(loss, tensors), radius, processes)


def gradients_of(loss: Tensor, tensors: dict[str, Tensor]) -> Sequence[Tensor | None]:
    """One a tensor, None where the loss does not see it."""
    return torch.autograd.grad(loss, list(tensors.values()), allow_unused=True)


def move(
    optimizer: torch.optim.Optimizer,
    tensors: dict[str, Tensor],
    gradients: Sequence[Tensor | None],
    radius: float | None,
    processes: Processes = ALONE,
) -> None:
    """One step of the optimizer on `tensors` alone, not farther (L2) than `radius` from where they are.

    The gradient is the mean of those of all processes.
    """
    parameters: Sequence[Tensor] = list(tensors.values())
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    # Every process sees the same kinds of rows, so a parameter is unused in all of them or in none.
    processes.average([parameter.grad for parameter in parameters if parameter.grad is not None])
    before = None if radius is None else {name: tensor.detach().clone() for name, tensor in tensors.items()}
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if before is not None:
        with torch.no_grad():
            moved = distance(tensors, before)
            if moved > radius:
                for name, tensor in tensors.items():
                    tensor.copy_(before[name] + (tensor - before[name]) * (radius / moved))
