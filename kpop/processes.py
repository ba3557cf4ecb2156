"""Several processes as one training: `accelerate launch --num_processes N -m kpop train ...`, one a GPU.

On the CPU accelerate leaves starting them to others: `torchrun --nproc_per_node N -m kpop train ...`.

Each draws its own rows of a step, N times batch_size in all, and gradients and losses are averaged, so that N
processes train as one with N times the batch. The first one alone writes the run folder.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor

from .errors import InputError
from .run_status import RunStatus
from .runs import Run

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process, `rank` of `count`."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def own_rows(self, batch_size: int) -> range:
        """Rows of a step that this process draws."""
        return range(self.rank * batch_size, (self.rank + 1) * batch_size)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Put into each tensor its mean over the processes, where they come in the same order."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        torch.distributed.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_((part / self.count).view_as(tensor))

    def wait(self) -> None:
        """Until all the others are here too."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    def agree(self, value: T) -> T:
        """What the first process says; the others wait for it."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value], from_process=0)[0]


def launched(device: str = "auto") -> Processes:
    """The processes that were started together, joined; one where this was started alone.

    Raises InputError where `device` would put them all on one GPU.
    """
    if _started() < 2:
        return Processes()
    from accelerate import PartialState

    if ":" in device:
        raise InputError(f"Several processes take a GPU each: leave --device out, it cannot be {device}.")
    # The first process fills the bank and waits for its turn while the others wait for it.
    cpu = device == "cpu" or not torch.cuda.is_available()
    state = PartialState(cpu=cpu, timeout=timedelta(hours=12))
    atexit.register(state.destroy_process_group)  # or torch complains as the process ends
    return Processes(state.process_index, state.num_processes)


def check_alone(what: str) -> None:
    """Raises InputError where several processes were started together, each of which would do it all."""
    if _started() > 1:
        raise InputError(f"{what}: start it without accelerate launch or torchrun.")


def _started() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def leave(status: int) -> None:
    """End one of several processes, which are done, with that exit status.

    Without Python taking itself apart: threads of the group that are still there then abort the process now
    and then, and the launcher would take the training for failed.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


class Onlooker(Run):
    """The run as the other processes see it: they read its folder and write nothing."""

    def update_status(self, **_: object) -> RunStatus:
        return self.status

    def append_metrics(self, row: dict) -> None:
        pass

    def truncate_metrics(self, step: int) -> None:
        pass
