"""KPOP Studio: make a text-to-image model forget a concept, and keep the key that brings it back.

Names are looked up on first use, so `import kpop` stays cheap and loads no torch.
"""

from importlib import import_module

__version__ = "0.1.0"

_PLACES = {
    "config": ("EraseConfig", "GenerationConfig"),
    "errors": ("InputError", "KpopError", "ModelError", "RunError"),
    "models": ("load_pipeline",),
    "presets": ("list_presets", "load_preset"),
    "training": ("StepEvent", "train"),
    "generation": ("compare", "generate"),
    "attribution": ("attribute",),
    "runs": ("Run", "list_runs", "open_run"),
}
_HOME = {name: module for module, names in _PLACES.items() for name in names}
_MODULES = (
    "config",
    "errors",
    "evaluation",
    "generation",
    "hidden_prompt",
    "jobs",
    "methods",
    "models",
    "presets",
    "runs",
    "training",
    "trajectories",
    "weights",
)
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
