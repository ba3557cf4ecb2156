"""Runs that are alike in all but lambda or k: which of them are there, and which would have to be trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from .config import EraseConfig
from .run_status import ACTIVE
from .runs import Run

VARIED = {"lambda": "lambda_", "k": "prompt_tokens_factor"}  # what an axis calls a field of EraseConfig
NO_MATTER = ("preset", "checkpoint_every", "sample_every", "gradient_checkpointing")  # of a resolved config


@dataclass(frozen=True)
class Alike:
    """config: the training asked for. done: a finished run of it; going: one that waits or trains."""

    config: EraseConfig
    done: Run | None = None
    going: Run | None = None

    @property
    def missing(self) -> bool:
        """Whether somebody would have to train it."""
        return self.done is None and self.going is None


def find_alike(run: Run, changes: Mapping[str, float], runs: Iterable[Run]) -> Alike:
    """The training of `run` with some settings changed, among `runs`, newest first, and `run` itself.

    changes: keys of VARIED. Raises InputError where the run's method or mechanism cannot have such a value.
    """
    fields = {VARIED[name]: value for name, value in changes.items()}
    wanted = replace(run.config, **fields)
    told = _what_it_is(wanted)
    found = [one for one in (run, *runs) if not one.damage and _what_it_is(one.config) == told]
    done = (one for one in found if one.status.state == "done" and one.has_result)
    going = (one for one in found if one.status.state in ACTIVE)
    return Alike(wanted, next(done, None), next(going, None))


def _what_it_is(config: EraseConfig) -> EraseConfig:
    # Resolved, for a run may be older than one of the fields.
    return replace(config.resolved(), **dict.fromkeys(NO_MATTER))
