"""Measuring what was erased, what was kept and what comes back: metrics, protocol, report, detectors."""

from importlib import import_module

_MODULES = ("detectors", "metrics", "protocol", "report")


def __getattr__(name: str):
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
