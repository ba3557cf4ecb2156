"""A step's losses and gradients as CUDA graphs: recorded once, then launched whole, not kernel by kernel.

At batch 1 a GPU computes faster than Python can tell it what to do: of an SD 1.4 U-Net one row takes as long
as ten. A graph's tensors keep their places, so what a step is given is copied into those of the recording;
p and theta' descend in place and are seen as they are by then.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from .batches import Batch, Rows
from .config import EraseConfig
from .descent import gradients_of
from .estimate import free_memory
from .hidden_prompt import HiddenPrompt
from .methods.losses import Losses, Student

Found = tuple[dict[str, Tensor], Sequence[Tensor | None]]  # losses by name, and gradients
Compute = Callable[[Batch], Found]
MECHANISMS = ("concat", "additive")  # the others look at texts, on the CPU
MOST = 16  # graphs of a run: two a concept
_replays: ContextVar[list[Callable[[], None]] | None] = ContextVar("replays", default=None)  # while recording


def at_replay(told: Callable[[], None]) -> bool:
    """While a graph is recorded: `told` is called whenever it is launched. False at any other time."""
    replays = _replays.get()
    if replays is None:
        return False
    replays.append(told)
    return True


def found_by(
    losses: Callable[..., Losses],
    student: Student,
    batch: Batch,
    p: HiddenPrompt | None,
    cfg: EraseConfig,
    tensors: dict[str, Tensor],
    graphs: Graphs | None,
) -> Found:
    """losses(student, batch, p, cfg), a method's, and what `tensors` would descend; from a graph if there are
    any. What autograd held is gone when it returns.
    """

    def compute(given: Batch) -> Found:
        loss, named = losses(student, given, p, cfg)
        found = gradients_of(loss, tensors)
        return {name: value.detach() for name, value in named.items()}, found

    if graphs is None:
        return compute(batch)
    place = None if p is None else p.key.data_ptr()  # concepts that share a key share their graphs too
    return graphs.run((losses.__name__, place), batch, compute)


def worth_it(cfg: EraseConfig, device: torch.device, processes: int = 1) -> bool:
    """Whether steps of cfg are recorded: KPOP_GRAPHS=1 asks for it, until a GPU has shown what it is worth.

    Not where memory is short, for a recording keeps what it took.
    """
    if device.type != "cuda" or processes > 1 or os.environ.get("KPOP_GRAPHS") != "1":
        return False
    if device.index not in (None, torch.cuda.current_device()):
        return False
    if cfg.mechanism not in MECHANISMS or cfg.gradient_checkpointing or cfg.decoy_share or cfg.kept_key_share:
        return False
    return (free_memory(device) or 0) > torch.cuda.get_device_properties(device).total_memory / 2


@dataclass
class _Kept:
    batch: Batch
    found: Found
    launch: Callable[[], None]
    told: list[Callable[[], None]]


@dataclass
class Graphs:
    """The recordings of one run. record(compute) -> (what it found, a call that finds it anew in place)."""

    record: Callable[[Callable[[], Found]], tuple[Found, Callable[[], None]]] | None = None
    kept: dict[tuple, _Kept] = field(default_factory=dict)
    failed: bool = False

    def __post_init__(self) -> None:
        self.record = self.record or Recorder()

    def run(self, kind: tuple, batch: Batch, compute: Compute) -> Found:
        """compute(batch), recorded the first time that a batch of this kind and these shapes comes.

        The gradients are overwritten by the next launch. Transfer must come before removal in a step.
        """
        name = (*kind, *(None if one is None else tuple(one.shape) for one in _tensors(batch)))
        known = name in self.kept
        drawn = batch.earlier or batch.decoys or batch.kept_keys  # what a recording cannot take
        if self.failed or drawn or (not known and len(self.kept) >= MOST):
            return compute(batch)
        if not known:
            try:
                self.kept[name] = self._recorded(batch, compute)
            except RuntimeError as error:
                self.failed = True
                warnings.warn(f"Steps run without CUDA graphs: {str(error)[:300]}", stacklevel=2)
                return compute(batch)
        kept = self.kept[name]
        for place, new in zip(_tensors(kept.batch), _tensors(batch), strict=True):
            if place is not None:
                place.copy_(new)
        kept.launch()
        for told in kept.told:
            told()
        named, gradients = kept.found
        return {loss: value.clone() for loss, value in named.items()}, gradients

    def _recorded(self, batch: Batch, compute: Compute) -> _Kept:
        own, told = _copied(batch), []
        before = _replays.set(told)
        try:
            found, launch = self.record(lambda: compute(own))
        finally:
            _replays.reset(before)
        return _Kept(own, found, launch, told)


class Recorder:
    """Records on CUDA, all graphs in one pool of memory: none needs what another left, but its results."""

    def __init__(self) -> None:
        self.stream, self.pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()

    def __call__(self, compute: Callable[[], Found]) -> tuple[Found, Callable[[], None]]:
        before = _replays.set(None)  # to warm up is a forward like any other
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):  # libraries set themselves up, which no graph can hold
            compute()
        torch.cuda.synchronize()
        _replays.reset(before)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            found = compute()
        return found, graph.replay


def _tensors(batch: Batch) -> list[Tensor | None]:
    found: list[Tensor | None] = [batch.neutral]
    for rows in (batch.concept, batch.erase, batch.retain):
        if rows is not None:
            found += [getattr(rows, one.name) for one in fields(Rows) if one.name != "prompts"]
    return found


def _copied(batch: Batch) -> Batch:
    def copied(rows: Rows | None) -> Rows | None:
        if rows is None:
            return None
        names = [one.name for one in fields(Rows) if one.name != "prompts"]
        return replace(rows, **{name: getattr(rows, name).clone() for name in names})

    neutral = None if batch.neutral is None else batch.neutral.clone()
    parts = (copied(batch.concept), copied(batch.erase), copied(batch.retain))
    return replace(batch, concept=parts[0], erase=parts[1], retain=parts[2], neutral=neutral)
