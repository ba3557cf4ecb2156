"""Erasing methods, one file each, same signature: losses of one training step from a Batch.

A stepwise method (method_table.METHODS) has `removal(student, batch, p, cfg)`, and one with a key also
`transfer(student, batch, p, cfg)`, each returning the loss to minimise and its named parts. The others have
`solve(pipe, cfg, model_hash)`, which returns theta' (a WeightDelta, None for no weights) and named numbers.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from ..config import CHOICES
from ..errors import InputError


def load_method(name: str) -> ModuleType:
    """The module of a method. Raises InputError when there is none of that name."""
    if name not in CHOICES["method"]:
        raise InputError(f"method must be one of {', '.join(CHOICES['method'])}, not {name!r}.")
    return import_module(f"{__name__}.{name}")
