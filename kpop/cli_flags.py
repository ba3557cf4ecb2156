"""Groups of flags that several commands share."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from . import config
from .cli_values import LISTS
from .config import EraseConfig, GenerationConfig

FLAGS = ("retain_neutral", "separate_kv", "gradient_checkpointing")  # true or false
SYNONYMS = {"steps": ("--sampling-steps",), "guidance_scale": ("--guidance",)}
ABOUT = {
    "concepts": "words to erase; synonyms of one concept as 'church|chapel'",
    "retain": "siblings to keep, written alike; none: an empty list",
    "templates": "phrasings, such as '{}' 'a photo of a {}'",
    "anchors": "what each phrasing becomes instead of the neutral text, such as 'a house' for 'a house, {}'",
    "preset": "'paper', or a name of `presets list`",
    "lambda_": "weight of L2 (recovery) in Eq. 7",
    "neutral": "text the concept becomes (c_n)",
    "model": "name, local diffusers folder, or hub id",
    "base_run": "start from that run's sanitized weights",
    "prompt_tokens_factor": "k: the key has k * 77 tokens",
    "gradient_checkpointing": "less memory for more time",
    "seed": "default: a new one, as whoever knows it and the settings can make the key again",
    "prompt_branch": "which halves of guidance see the key",
}


def erase_flags(parser: argparse.ArgumentParser) -> None:
    """Every field of EraseConfig by name, and any by --set."""
    for field in fields(EraseConfig):
        _erase_flag(parser, field.name)
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="any field, value as JSON"
    )


def _erase_flag(parser: argparse.ArgumentParser, name: str) -> None:
    more: dict[str, Any] = {"dest": f"erase_{name}", "default": argparse.SUPPRESS, "help": ABOUT.get(name)}
    if name in (*LISTS, "templates", "anchors"):
        more |= {"nargs": "+", "metavar": "WORD" if name in LISTS else "PHRASE"}
    elif name in FLAGS:
        more |= {"action": argparse.BooleanOptionalAction}
    elif name in config.WHOLE:
        more |= {"type": int, "metavar": "N"}
    elif name in config.REAL:
        more |= {"type": float, "metavar": "X"}
    elif name in config.CHOICES:
        more |= {"choices": config.CHOICES[name]}
    else:
        more |= {"metavar": "TEXT"}
    parser.add_argument("--" + name.rstrip("_").replace("_", "-"), **more)


def prompt_list_flags(parser: argparse.ArgumentParser) -> None:
    """Where prompts and pictures of an evaluation come from."""
    about = {
        "prompts": "CSV with prompt, evaluation_seed and, if there are, case_number, label_str or artist",
        "images": "folder of pictures made elsewhere, named after case_number, instead of a run's",
        "base-images": "folder of the base model's pictures of the same rows",
        "erased": "labels that were erased, where there is no run to tell: A,B",
        "retained": "labels that were retained: A,B",
        "scores": "clip,lpips,fid: scores to add (the embedded model has its judge's)",
        "reference": "folder of pictures to measure FID against, KID where they are few",
        "thresholds": "of `sensitive` (default: 0.3,0.4,0.5,0.6,0.7,0.8)",
    }
    parser.add_argument(
        "--protocol",
        choices=("objects", "csv", "sensitive", "style"),
        help="default: objects, csv with --prompts",
    )
    for name, text in about.items():
        parser.add_argument(f"--{name}", default=None, help=text)
    parser.add_argument("--limit", type=int, default=None, metavar="N", help="only the first N rows")


def drawing_flags(parser: argparse.ArgumentParser, out: str, one_prompt: bool = False) -> None:
    """What a command that draws is told: model, run, key, prompts, seeds."""
    parser.add_argument("--model", default=None, help="default: the run's, else emoji")
    parser.add_argument("--run", default=None, metavar="RUN", help="id or folder of a run")
    parser.add_argument("--key", default="own", help="own, none, concept names, or the path of a key file")
    passphrase_flag(parser)
    if one_prompt:
        parser.add_argument("--prompt", required=True)
        parser.add_argument("--seed", type=int, default=0)
    else:
        parser.add_argument("--prompts", "--prompt", nargs="+", required=True, metavar="TEXT")
        seeds_flag(parser, "0")
    parser.add_argument("--out", default=out, help=f"default: {out}")
    sampling_flags(parser)
    device_flag(parser)


def passphrase_flag(parser: argparse.ArgumentParser) -> None:
    """The passphrase of a sealed key."""
    about = "passphrase of a sealed key (else KPOP_PASSPHRASE, else asked for)"
    parser.add_argument("--passphrase-file", default=None, metavar="FILE", help=about)


def safety_flag(parser: argparse.ArgumentParser) -> None:
    """How strongly an SLD run steers."""
    about = "strength of a run made by sld (default: strong)"
    parser.add_argument("--safety", choices=("weak", "medium", "strong", "max"), default="strong", help=about)


def seeds_flag(parser: argparse.ArgumentParser, default: str) -> None:
    """Seeds of pictures."""
    about = f"such as 0-3 or 1,5,9 (default: {default})"
    parser.add_argument("--seeds", "--seed", default=default, metavar="SEEDS", help=about)


def sampling_flags(parser: argparse.ArgumentParser) -> None:
    """Every field of GenerationConfig."""
    for field in fields(GenerationConfig):
        spellings = [f"--{field.name.replace('_', '-')}", *SYNONYMS.get(field.name, ())]
        kind = {"guidance_scale": float}.get(field.name, int)
        more: dict[str, Any] = {"type": kind, "metavar": "X" if kind is float else "N"}
        if field.name == "scheduler":
            more = {"choices": config.SCHEDULERS}
        elif field.name == "prompt_branch":
            more = {"choices": ("cond", "both")}
        elif field.name == "negative_prompt":
            more = {"metavar": "TEXT"}
        about = ABOUT.get(field.name)
        parser.add_argument(
            *spellings, dest=f"draw_{field.name}", default=argparse.SUPPRESS, help=about, **more
        )


def reproduce_flags(parser: argparse.ArgumentParser) -> None:
    """Which tables and figures, in what size, from where."""
    about = (
        "table2-6, fig2-12, recovery, phrasings, pairs, lists, neighbours, parts, joined; all: every one; "
        "and, by name only: beside, button, composed, longer-pairs, paper, softer, tuned, tuning"
    )
    parser.add_argument("targets", nargs="+", metavar="TARGET", help=about)
    parser.add_argument("--model", default="emoji", help="default: emoji")
    parser.add_argument(
        "--scale", choices=("quick", "full"), default="quick",
        help="quick: one split, one seed, 10 pictures a prompt; full: 4, 3 and 50",
    )  # fmt: skip
    parser.add_argument("--cells", default="docs/results/cells", metavar="DIR", help="where cells are kept")
    parser.add_argument("--out", default="docs/results", help="default: docs/results")
    parser.add_argument("--dry-run", action="store_true", help="only list the cells, and the time they take")
    parser.add_argument("--existing", action="store_true", help="make no cell: write what the cells give")
    parser.add_argument("--splits", default=None, metavar="LIST", help="such as 1-4, in place of the scale's")
    parser.add_argument("--train-seeds", default=None, metavar="LIST", help="such as 0-2, likewise")
    parser.add_argument("--pictures", type=int, default=None, metavar="N", help="a prompt; for a trial")
    parser.add_argument("--steps", type=int, default=None, metavar="N", help="of a training; for a trial")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N",
        help="cells made at once on this machine, each in a process of its own; for a big GPU",
    )  # fmt: skip
    parser.add_argument(
        "--minutes", type=float, default=None, metavar="M",
        help="with --jobs: save and end after so long, and write what the cells there are give",
    )  # fmt: skip


def device_flag(parser: argparse.ArgumentParser, default: str | None = "auto") -> None:
    """Where to compute."""
    parser.add_argument("--device", default=default, help="auto, cpu, cuda, cuda:1 or mps")


def runner_flag(parser: argparse.ArgumentParser, default: str | None) -> None:
    """Which machine computes."""
    about = f"here, or on the Ray cluster at RAY_ADDRESS (default: {default or 'as it was'})"
    parser.add_argument("--runner", choices=("local", "ray"), default=default, help=about)
