"""Whether a run is well: losses and weights that are still numbers, and memory that is there.

A step is judged before anything of it is told or saved. Its losses are those of the weights before it moves
them, so where they ran away the checkpoint of the step before is not to be trusted either.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .batches import MOST_WEIGHT
from .config import EraseConfig
from .continual import Forgotten
from .disk import brief
from .errors import InputError, KpopError, ModelError, RunError
from .estimate import Estimate, estimate_run, free_memory, gigabytes

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

EARLY = 10  # steps whose losses say what is usual
TOO_MUCH = 100  # times what was usual
SOUND = 3.0  # no alarm below, once something is usual: predicting nothing at all costs 1 in eps
AT_FIRST = 10.0  # the most before
ON_PROMPT = ("l_transfer", "l_key_retain")  # losses that p descends
SMALLER = "Choose a smaller batch_size, or close other programs."
ROOMY = 8  # times the U-Net and its copies, for each of a batch: three times what SD takes on a GPU
TIGHT = 0.25  # share of free memory from which on the CPU's memory is looked at closely


class Diverged(RunError):
    """A training whose losses or weights ran away. step: after it, at the latest, the weights are bad."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class Health:
    """Watches a run. rows: metrics of its first steps, where it goes on after a stop.

    Losses of all kinds are squared errors of one scale, and some start at 0 exactly, so all are held
    against the largest of their early medians.
    """

    def __init__(self, cfg: EraseConfig, rows: Sequence[Mapping[str, object]] = ()):
        self.cfg = cfg
        # A target past the neutral text lies farther off, and noisy rows weigh more in x0.
        self.scale = (MOST_WEIGHT if cfg.loss_space == "x0" else 1.0) * (1 + cfg.negative_guidance) ** 2
        self.early: list[dict[str, float]] = []
        for row in rows[:EARLY]:
            found = {name: value for name, value in row.items() if name.startswith("l_")}
            self.early.append({name: value for name, value in found.items() if isinstance(value, float)})

    def check(self, step: int, losses: Mapping[str, float], tensors: Iterable[Tensor]) -> None:
        """Raises Diverged when step `step` must not be kept. tensors: theta' and p after the step."""
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        if bad:
            raise self._ill(step, step - 1, f"{', '.join(bad)}: no number any more", bad)
        usual = self.usual()
        most = self.scale * AT_FIRST if usual is None else max(TOO_MUCH * usual, self.scale * SOUND)
        bad = [name for name, value in losses.items() if value > most]
        if bad:
            told = ", ".join(f"{name} grew to {losses[name]:.3g}" for name in bad)
            first = "" if usual is None else f", and the first losses were near {usual:.2g}"
            raise self._ill(step, step - 1, f"{told}{first}", bad)
        if not bool(torch.nn.utils.get_total_norm(list(tensors)).isfinite()):
            raise self._ill(step, step, "weights or key are no numbers any more", ())
        if len(self.early) < EARLY:
            self.early.append(dict(losses))

    def usual(self) -> float | None:
        """The largest early median; None in the first steps."""
        if len(self.early) < EARLY:
            return None
        kinds = {name for row in self.early for name in row}
        return max(statistics.median(row.get(name, 0.0) for row in self.early) for name in kinds)

    def _ill(self, step: int, since: int, what: str, bad: Sequence[str]) -> Diverged:
        model = f"learning_rate ({self.cfg.learning_rate:g})"
        prompt = f"prompt_learning_rate ({self.cfg.prompt_learning_rate:g})"
        first, then = (prompt, model) if bad and set(bad) <= set(ON_PROMPT) else (model, prompt)
        return Diverged(
            f"Stopped at step {step}: {what}. Lower {first}, or {then}, and start a new run. "
            "What was saved before that step is kept.",
            since,
        )


def check_fits(cfg: EraseConfig, pipe: StableDiffusionPipeline, earlier: Sequence[Forgotten] = ()) -> None:
    """Raises ModelError, with what would fit, when the run cannot have the memory that it needs.

    earlier: continual.earlier_of(cfg).
    A close look takes seconds. There is none on a GPU with much more room, nor on the CPU, where little is
    known of other programs, for a run that needs no good share.
    """
    device = pipe.unet.device
    free = free_memory(device)
    if free is None:
        return
    if device.type == "cpu" and _copies(cfg, pipe) < TIGHT * free:
        return
    if device.type == "cuda" and ROOMY * cfg.batch_size * (_size(pipe) + _copies(cfg, pipe)) < free:
        return
    try:
        found = estimate_run(cfg, pipe, earlier)
    except InputError:
        return  # there is no estimate for this method or mechanism
    if _beside(found) > free:
        raise ModelError(
            f"This run needs about {gigabytes(_beside(found))} on {found.device} beside the model, and "
            f"{gigabytes(free)} are free. {what_fits(cfg, pipe, free, earlier)}"
        )


def what_fits(
    cfg: EraseConfig, pipe: StableDiffusionPipeline, free: int, earlier: Sequence[Forgotten] = ()
) -> str:
    """A sentence: the mildest change with which the run fits into `free` bytes beside the model."""
    smaller, size = [], cfg.batch_size
    again = {} if cfg.gradient_checkpointing else {"gradient_checkpointing": True}
    while size > 1:
        size //= 2
        smaller.append({"batch_size": size})
    if again:  # the same losses in more time; slower than half a batch, so only where that is not enough
        smaller.append({"batch_size": 1, **again})
    for subset in ("xattn", "kv"):
        smaller.append({"batch_size": 1, "trainable": subset, **again})
    for changes in smaller:
        found = estimate_run(replace(cfg, **changes), pipe, earlier)
        told = ", ".join(f"{name} {str(value).lower()}" for name, value in changes.items())
        if _beside(found) <= free:
            return f"{told} would need about {gigabytes(_beside(found))}."
    return (
        f"Even {told} would need about {gigabytes(_beside(found))}; close other programs, or choose a "
        "smaller model or another device."
    )


@contextmanager
def device_in_words(cfg: EraseConfig, pipe: StableDiffusionPipeline) -> Iterator[None]:
    """A RunError for memory refused inside the block, with what would fit, and for a lost device."""
    free = free_memory(pipe.unet.device)
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_of_device(error):
            raise
        if not is_out_of_memory(error):
            raise RunError(device_words(error)) from error
        try:
            told = what_fits(cfg, pipe, free if free is not None else 0)
        except (KpopError, MemoryError, RuntimeError):
            told = SMALLER
        raise RunError(
            f"The device ran out of memory at batch_size {cfg.batch_size}. {told} "
            "What was saved before is kept."
        ) from error


def is_of_device(error: BaseException) -> bool:
    """Whether the device itself failed: it refused memory, or it is gone."""
    return is_out_of_memory(error) or isinstance(error, torch.AcceleratorError)


def device_words(error: BaseException) -> str:
    """What to do after an error that is_of_device."""
    if is_out_of_memory(error):
        return f"The device ran out of memory. {SMALLER}"
    return (
        f"The device was lost or failed ({brief(error)}). Look after it and its driver, then resume. "
        "What was saved before is kept."
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine refused memory, in any of torch's ways to say so."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        told in text for told in ("out of memory", "can't allocate memory", "not enough memory")
    )


def _beside(found: Estimate) -> int:
    """What a run takes above the model, which is loaded already."""
    return found.memory - found.weights


def _size(pipe: StableDiffusionPipeline) -> int:
    return sum(weight.numel() * weight.element_size() for weight in pipe.unet.parameters())


def _copies(cfg: EraseConfig, pipe: StableDiffusionPipeline) -> int:
    """theta', its gradients and Adam's two moments, bytes."""
    from .weights import trainable_names

    sizes = dict(pipe.unet.named_parameters())
    return 16 * sum(sizes[name].numel() for name in trainable_names(pipe.unet, cfg.trainable))
