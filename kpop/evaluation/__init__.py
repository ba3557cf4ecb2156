"""Measuring what was erased, what was kept and what comes back: metrics, protocol, report, detectors."""

from importlib import import_module

_MODULES = ("detectors", "metrics", "prompt_protocol", "prompt_report", "protocol", "report", "scores")


def __getattr__(name: str):
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
