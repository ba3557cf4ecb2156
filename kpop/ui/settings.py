"""All settings of a training as fields of the page; a field left empty takes what the base model needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import gradio as gr

from ..config import EraseConfig
from ..errors import InputError
from ..method_table import METHODS
from ..model_table import ignored
from .concepts import concepts_from

AUTO = "recommended"


@dataclass(frozen=True)
class Setting:
    """One field. name: of EraseConfig; choices: for a list; whole: integers only."""

    name: str
    label: str
    info: str
    choices: tuple[str, ...] = ()
    whole: bool = False


SETTINGS = (
    Setting("method", "Method", "kpop leaves a key; its rivals do not", tuple(METHODS)),
    Setting("steps", "Steps", "more steps forget more surely", whole=True),
    Setting("lambda_", "Strength of bringing back", "lambda: weight of L2 against L1"),
    Setting("retain_weight", "Hold on the siblings", "weight of the retain rows"),
    Setting("rate_decay", "Slow down at the end", "last share of the steps; 0 is the paper's"),
    Setting("key_share", "The key learns alone", "last share of the steps; 0 is the paper's"),
    Setting("key_retain_weight", "Hold on the siblings with the key", "beyond the paper; 0 is the paper's"),
    Setting("decoy_share", "Wrong keys to refuse", "share of L1 that sees one; 0 is the paper's"),
    Setting("kept_key_share", "Kept words see keys, too", "share of the retained rows; 0 is the paper's"),
    Setting("near_share", "Rows of the nearest siblings", "share of the retained; 0 is the paper's"),
    Setting("pair_share", "Rows of two things", "of the concept, beside a sibling"),
    Setting("erase_on", "Forget on the way to", "concept is the paper's", ("concept", "neutral", "both")),
    Setting("negative_guidance", "Push away", "negative guidance eta; 0 aims at the neutral text"),
    Setting("learning_rate", "Learning rate", "of the weights, theta'"),
    Setting("prompt_learning_rate", "Learning rate of the key", "of the hidden prompt, p"),
    Setting("prompt_tokens_factor", "Size of the key", "k: k times 77 tokens, or k words", whole=True),
    Setting("prompt_init_std", "Start of the key", "standard deviation of p at step 0"),
    Setting("sites", "Where the key enters", "cross-attention layers", ("mid", "mid-up", "down-mid-up")),
    Setting(
        "mechanism",
        "How the key enters",
        "beside the text, added onto it, as a word, or made from it",
        ("concat", "additive", "token", "amortized"),
    ),
    Setting("prompt_sharing", "One key or several", "for several concepts", ("per-concept", "shared")),
    Setting(
        "trainable", "What is changed", "subset of the U-Net", ("xattn", "kv", "selfattn", "noxattn", "full")
    ),
    Setting(
        "latents", "Noisy pictures from", "bank: drawn once; fresh: the paper's, slower", ("bank", "fresh")
    ),
    Setting("loss_space", "Error measured in", "noise (eps) or picture (x0)", ("eps", "x0")),
    Setting("batch_size", "Batch", "rows a step", whole=True),
    Setting("rollout_steps", "Steps of a rollout", "sampling steps of the teacher", whole=True),
    Setting("rollout_guidance", "Guidance of a rollout", "of the teacher"),
    Setting("sample_every", "Samples every", "steps between two samples", whole=True),
    Setting("checkpoint_every", "Checkpoint every", "steps between two checkpoints", whole=True),
    Setting("seed", "Seed", "same seed, same run and same key; empty: a new one", whole=True),
)


def build_settings() -> list[gr.components.Component]:
    """One component a setting, in SETTINGS' order; all empty."""
    fields = []
    with gr.Row(elem_classes="settings"):
        for setting in SETTINGS:
            common = {
                "label": setting.label,
                "info": setting.info,
                "elem_id": f"set-{setting.name}",
                "min_width": 200,
            }
            if setting.choices:
                fields.append(gr.Dropdown([AUTO, *setting.choices], value=AUTO, **common))
            else:
                fields.append(gr.Textbox("", placeholder=AUTO, max_lines=1, max_length=24, **common))
    return fields


def config_from(
    model: str, forget: list[str], keep: list[str], neutral: str, preset, paper: bool, values: Sequence
) -> EraseConfig:
    """The fields of the page as an EraseConfig; preset: a Preset whose settings go under the fields, or None.

    They do so as long as what is to be forgotten is the preset's. Raises InputError as EraseConfig does.
    """
    preset = None if paper else preset_of(preset, forget)
    fields = {} if preset is None else dict(preset.settings)
    fields |= {"model": model, "concepts": concepts_from(forget)}
    if neutral and neutral.strip():
        fields["neutral"] = neutral
        if preset is not None and neutral.strip() != preset.neutral:
            fields.pop("anchors", None)  # another neutral text than the preset's is for all its phrasings
    if concepts_from(keep):
        fields["retain"] = concepts_from(keep)
    if paper:
        fields["preset"] = "paper"
    given = filled_in(values)
    method = next((value for setting, value in given.items() if setting.name == "method"), "kpop")
    # A preset's values are KPOP's: what another method has no use for is left out, what is typed is not.
    fields = {name: value for name, value in fields.items() if name not in ignored(method)}
    for setting, value in given.items():
        fields[setting.name] = value if setting.choices else number(setting.label, value, setting.whole)
    return EraseConfig.from_dict(fields)


def preset_of(preset, forget: list[str]):
    """The preset, while all that is to be forgotten is of its concepts; else None."""
    concepts = concepts_from(forget)
    return preset if preset is not None and concepts and set(concepts) <= set(preset.concepts) else None


def filled_in(values: Sequence) -> dict[Setting, object]:
    """The settings that were typed or chosen."""
    return {
        setting: value
        for setting, value in zip(SETTINGS, values, strict=True)
        if value not in (None, "", AUTO)
    }


def values_of(config: EraseConfig) -> list[str]:
    """What stands in the fields, in SETTINGS' order, for a run like this one: what is not recommended."""
    config = config.resolved()
    words = {"model": config.model, "concepts": config.concepts, "retain": config.retain}
    usual = EraseConfig(**words, method=config.method).resolved()
    given = {} if config.mechanism == usual.mechanism else {"mechanism": config.mechanism}
    usual = EraseConfig(**words, method=config.method, **given).resolved()
    found = []
    for setting in SETTINGS:
        own, empty = getattr(config, setting.name), AUTO if setting.choices else ""
        plain = "kpop" if setting.name == "method" else getattr(usual, setting.name)
        same = own is None or (own == plain and setting.name not in given)
        found.append(empty if same else str(own))
    return found


def number(label: str, text: str, whole: bool = False) -> int | float:
    """What was typed into a field, as a number. Raises InputError."""
    try:
        return int(str(text)) if whole else float(str(text))
    except ValueError:
        kind = "a whole number" if whole else "a number"
        raise InputError(f"“{label}” must be {kind}, not {str(text)[:24]!r}.") from None
