"""Ready-made concept lists: one YAML file a preset in presets/, and the paper's settings."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .config import Concept, EraseConfig, names
from .errors import InputError

FOLDER = Path(__file__).resolve().parent.parent / "presets"
# Section 5.1 of the paper (v2): Stable Diffusion 1.4, names only, batch 1, fresh rollouts of theta'.
PAPER = MappingProxyType(
    {
        "neutral": "",
        "retain": (),
        "retain_neutral": False,
        "steps": 1000,
        "batch_size": 1,
        "learning_rate": 1e-5,
        "prompt_learning_rate": 1e-5,
        "prompt_optimizer": "adam",
        "prompt_tokens_factor": 10,
        "mechanism": "concat",
        "sites": "mid",
        "prompt_sharing": "per-concept",
        "separate_kv": False,
        "prompt_init_std": 0.01,
        "lambda_": 0.1,
        "retain_weight": 1.0,
        "key_retain_weight": 0.0,
        "key_share": 0.0,
        "decoy_share": 0.0,
        "kept_key_share": 0.0,
        "near_share": 0.0,
        "pair_share": 0.0,
        "rate_decay": 0.0,
        "erase_on": "concept",
        "negative_guidance": 0.0,
        "loss_space": "eps",
        "templates": ("{}",),
        "anchors": (),
        "trainable": "xattn",
        "latents": "fresh",
        "rollout_steps": 50,
        "rollout_guidance": 3.0,
    }
)
KEYS = ("title", "model", "concepts", "neutral", "retain", "sensitive", "prompts", "settings")


@dataclass(frozen=True)
class Preset:
    """One file of presets/. prompts: what to draw when judging it; settings: EraseConfig fields it changes.

    model: the base model it is made for, None for any. sensitive: what it erases should not be shown unasked;
    in the file also a list of further words that ask for it, kept in `asking`.
    """

    name: str
    title: str
    concepts: tuple[Concept, ...]
    neutral: str = ""
    retain: tuple[Concept, ...] = ()
    prompts: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    sensitive: bool = False
    asking: tuple[str, ...] = ()
    model: str | None = None


def list_presets(folder: Path = FOLDER) -> list[Preset]:
    """Every preset, in the order of their file names. Raises InputError on a file that cannot be used."""
    return [_read(path) for path in sorted(folder.glob("*.yaml"))]


def load_preset(name: str, folder: Path = FOLDER) -> Preset:
    """The preset of that name (its file's name without a leading number). Raises InputError."""
    found = {_name(path): path for path in sorted(folder.glob("*.yaml"))}
    if name not in found:
        raise InputError(f"There is no preset {str(name)[:60]!r}; known are: {', '.join(['paper', *found])}.")
    return _read(found[name])


def _name(path: Path) -> str:
    return re.sub(r"^\d+-", "", path.stem)


def _read(path: Path) -> Preset:
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(
            f"The preset {path.name} cannot be read: {' '.join(str(error).split())[:200]}"
        ) from error
    if not isinstance(values, dict):
        raise InputError(f"The preset {path.name} must hold `title`, `concepts` and so on.")
    unknown = sorted(set(map(str, values)) - set(KEYS))
    if unknown:
        raise InputError(f"The preset {path.name} holds {unknown[0]!r}; known are: {', '.join(KEYS)}.")
    prompts = values.get("prompts") or ()
    if not _texts(prompts):
        raise InputError(
            f"The preset {path.name}: prompts must be a list of texts; quote those with a colon."
        )
    sensitive = values.get("sensitive", False)
    if not isinstance(sensitive, bool) and not _texts(sensitive):
        raise InputError(f"The preset {path.name}: sensitive must be true, false or a list of words.")
    settings = {
        ("lambda_" if key == "lambda" else key): value
        for key, value in (values.get("settings") or {}).items()
    }
    checked = EraseConfig.from_dict(
        {
            "concepts": values.get("concepts") or (),
            "retain": values.get("retain") or (),
            "neutral": values.get("neutral") or "",
            **settings,
        }
    )
    return Preset(
        name=_name(path),
        title=str(values.get("title") or _name(path)),
        concepts=checked.concepts,
        neutral=checked.neutral or "",
        retain=checked.retain or (),
        prompts=tuple(prompts),
        settings={key: getattr(checked, key) for key in settings},
        sensitive=bool(sensitive),
        asking=tuple(sensitive) if isinstance(sensitive, list) else (),
        model=values.get("model"),
    )


def _texts(values: Any) -> bool:
    return isinstance(values, list | tuple) and all(isinstance(value, str) for value in values)


def are_sensitive(concepts: Iterable[Concept], presets: Iterable[Preset]) -> bool:
    """Whether a concept is one that one of the presets marks as sensitive."""
    marked = {word.lower() for preset in presets if preset.sensitive for word in _marked(preset)}
    return any(name.lower() in marked for concept in concepts for name in names(concept))


def asked_sensitive(prompt: str, presets: Iterable[Preset]) -> list[Preset]:
    """The sensitive presets whose concept a prompt names, in one or several words, or one of whose prompts
    it is.
    """
    text = " ".join(prompt.lower().split())

    def says(word: str) -> bool:
        one = re.escape(word.lower().removesuffix("s"))
        return re.search(rf"(?<!\w){one}(?:s|es)?(?!\w)", text) is not None

    return [
        preset
        for preset in presets
        if preset.sensitive and (text in map(str.lower, preset.prompts) or any(map(says, _marked(preset))))
    ]


def _marked(preset: Preset) -> tuple[str, ...]:
    return *(name for concept in preset.concepts for name in names(concept)), *preset.asking
