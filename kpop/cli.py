"""The command line: what can be said, and how it ends (0 done, 1 broke, 2 bad input, 130 Ctrl-C).

Nothing here loads torch: commands.py does, once a command needs it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

from . import config
from .cli_values import LISTS, concept_list, erase_config, generation_config, seed_list
from .config import EraseConfig, GenerationConfig
from .errors import InputError, KpopError
from .tracking import TRACKERS

__all__ = ["build_parser", "concept_list", "erase_config", "generation_config", "main", "seed_list"]

FLAGS = ("retain_neutral", "separate_kv", "gradient_checkpointing")  # true or false
SYNONYMS = {"steps": ("--sampling-steps",), "guidance_scale": ("--guidance",)}
MODULES = {
    "key": "release_commands",
    "release": "release_commands",
    "reproduce": "reproduce_commands",
    "runs": "run_commands",
}
ABOUT = {
    "concepts": "words to erase; synonyms of one concept as 'church|chapel'",
    "retain": "siblings to keep, written alike; none: an empty list",
    "templates": "phrasings, such as '{}' 'a photo of a {}'",
    "preset": "'paper', or a name of `presets list`",
    "lambda_": "weight of L2 (recovery) in Eq. 7",
    "neutral": "text the concept becomes (c_n)",
    "model": "name, local diffusers folder, or hub id",
    "base_run": "start from that run's sanitized weights",
    "prompt_tokens_factor": "k: the key has k * 77 tokens",
    "gradient_checkpointing": "less memory for more time",
    "prompt_branch": "which halves of guidance see the key",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise InputError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; never raises but SystemExit of --help. Returns the exit status."""
    try:
        args = build_parser().parse_args(list(map(_dashed, sys.argv[1:] if argv is None else argv)))
        return args.run_command(args) or 0
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its end
        return 1
    except KpopError as error:
        print(_line(error), file=sys.stderr)
        return 2
    except Exception as error:
        print(_unexpected(error), file=sys.stderr)
        return 1


def _dashed(argument: str) -> str:
    """Flags may be written as the fields are: --retain_weight."""
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else argument


def _line(error: object) -> str:
    return "kpop: " + " ".join(str(error).split())


def _unexpected(error: Exception) -> str:
    from .worker import in_words

    try:
        import platformdirs

        folder = Path(os.environ.get("KPOP_CACHE") or platformdirs.user_cache_dir("kpop-studio"))
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "errors.log", "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {sys.argv[1:]}\n{traceback.format_exc()}\n")
        more = f"Details: {folder / 'errors.log'}"
    except OSError:
        more = "No log could be written."
    return _line(f"{in_words(error)} {more}")


def build_parser() -> argparse.ArgumentParser:
    """The whole grammar."""
    parser = _Parser(
        prog="python -m kpop", description="Make a text-to-image model forget a concept; keep the key."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)

    train = _command(commands, "train", "train a run here and now; the last line is its folder")
    _erase_flags(train)
    train.add_argument(
        "--config", default=None, metavar="FILE", help="settings as .yaml or .json; flags win over it"
    )
    train.add_argument(
        "--dry-run", action="store_true", help="only say what it would train, in how much memory"
    )
    train.add_argument("--track", choices=TRACKERS, default=None, help="losses to it too, if installed")
    _runner(train, "local")
    _device(train)

    generate = _command(commands, "generate", "draw pictures of prompts and seeds as PNG files")
    generate.add_argument("--variant", choices=("original", "sanitized", "recovered"), default="original")
    _drawing(generate, "pictures")
    _safety(generate)
    compare = _command(commands, "compare", "draw original, sanitized and any recovered on one sheet")
    _drawing(compare, "compare.png")
    _safety(compare)
    attribute = _command(commands, "attribute", "draw where every attention head looks, per word")
    _drawing(attribute, "attribution", one_prompt=True)
    attribute.add_argument(
        "--words", default=None, metavar="A,B", help="words of the prompt (default: all that matter)"
    )
    attribute.add_argument(
        "--variants", default=None, metavar="A,B", help="rows (default: all that there are)"
    )
    attribute.add_argument(
        "--layer", default=None, help="all, down, middle, up, or one's name (default: of the largest focus)"
    )
    attribute.add_argument(
        "--kept", default=None, metavar="PROMPT", help="one to draw below, as in KPOP Fig. 2"
    )
    attribute.add_argument("--format", choices=("png", "svg", "pdf"), default="png", help="default: png")
    attribute.add_argument(
        "--timestep-band", type=int, default=None, metavar="0-4", help="noise 0 to picture 4"
    )
    attribute.add_argument("--view", choices=("overlay", "heat", "difference"), default="overlay")

    evaluate = _command(commands, "evaluate", "what was forgotten and kept: base, sanitized, recovered")
    evaluate.add_argument("run", metavar="RUN", nargs="?", help="id or folder of a run")
    evaluate.add_argument(
        "--words", default=None, metavar="A,B", help="default: what the run erases and retains"
    )
    evaluate.add_argument("--template", default="a {}", help="prompt of a word (default: 'a {}')")
    evaluate.add_argument("--judge", default=None, help="emoji, resnet50 or nudenet (default: by the model)")
    _prompt_list(evaluate)
    evaluate.add_argument("--out", default=None, help="folder (default: evaluation-RUN)")
    evaluate.add_argument("--model", default=None, help="default: the run's")
    evaluate.add_argument("--key", default="own", help="own, none, concept names, or the path of a key file")
    _passphrase(evaluate)
    _seeds(evaluate, "500-519")
    _safety(evaluate)
    _sampling(evaluate)
    _runner(evaluate, "local")
    _device(evaluate)

    runs = _command(commands, "runs", "list, show, stop, resume, publish or delete runs").add_subparsers(
        metavar="ACTION", required=True, parser_class=_Parser
    )
    listing = _command(runs, "list", "every run, newest first", "runs_list")
    listing.add_argument("--json", action="store_true", help="as JSON")
    for name, about in (
        ("show", "settings and state of a run as JSON"),
        ("stop", "save and stop a run"),
        ("resume", "go on with a run in the background"),
        ("publish", "let every visitor of a shared app see a run and draw with its key"),
        ("delete", "remove a run folder, keys included"),
    ):
        action = _command(runs, name, about, f"runs_{name}")
        action.add_argument("run", metavar="RUN", help="id or folder of a run")
        if name == "stop":
            action.add_argument("--no-wait", action="store_true", help="do not wait until it has stopped")
        if name == "publish":
            action.add_argument("--undo", action="store_true", help="only who started it sees it again")
        if name == "resume":
            _passphrase(action)
            _runner(action, None)
            _device(action, None)

    release = _command(commands, "release", "write the sanitized model for others; the key stays here")
    release.add_argument("run", metavar="RUN", help="id or folder of a run")
    release.add_argument("--out", required=True, metavar="DIR", help="a new folder, or an earlier release")
    release.add_argument("--form", choices=("diffusers", "delta", "single-file", "all"), default="diffusers")
    release.add_argument(
        "--evaluation", default=None, metavar="DIR", help="folder of `evaluate`, for the table in the card"
    )
    release.add_argument("--push", default=None, metavar="USER/NAME", help="say what would go to the hub")
    release.add_argument("--really", action="store_true", help="send it")
    _passphrase(release)
    key = _command(commands, "key", "seal, open or check the key of a run").add_subparsers(
        metavar="ACTION", required=True, parser_class=_Parser
    )
    for name, about in (
        ("seal", "encrypt a run's keys with a passphrase and remove the clear copies"),
        ("open", "put the clear copies back"),
        ("check", "say how the keys lie; search a release for them"),
    ):
        action = _command(key, name, about, f"key_{name}")
        action.add_argument("run", metavar="RUN", help="id or folder of a run")
        _passphrase(action)
        if name == "check":
            action.add_argument("--release", default=None, metavar="DIR", help="folder to search for the key")

    example = _command(commands, "example", "train a run to ship: its key public, its first pictures drawn")
    _erase_flags(example)
    example.add_argument("--out", required=True, help="folder, such as assets/example-run")
    _device(example)

    reproduce = _command(commands, "reproduce", "make the paper's tables and figures on a model")
    _reproducing(reproduce)
    _runner(reproduce, "local")
    _device(reproduce)

    presets = _command(commands, "presets", "ready-made concept lists").add_subparsers(
        metavar="ACTION", required=True, parser_class=_Parser
    )
    _command(presets, "list", "their names", "presets_list")
    _command(presets, "show", "one of them as JSON", "presets_show").add_argument("name", metavar="NAME")
    return parser


def _command(commands, name: str, about: str, function: str | None = None) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=about, description=about[0].upper() + about[1:] + ".", allow_abbrev=False
    )
    parser.add_argument(
        "--runs", default=None, metavar="DIR", help="runs folder (default: KPOP_RUNS, or user data)"
    )

    def run(args: argparse.Namespace) -> int | None:
        body = function or name
        module = MODULES.get(body.partition("_")[0], "commands")
        return getattr(import_module(f"{__package__}.{module}"), body)(args)

    parser.set_defaults(run_command=run)
    return parser


def _erase_flags(parser: argparse.ArgumentParser) -> None:
    for field in fields(EraseConfig):
        _erase_flag(parser, field.name)
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="any field, value as JSON"
    )


def _erase_flag(parser: argparse.ArgumentParser, name: str) -> None:
    more: dict[str, Any] = {"dest": f"erase_{name}", "default": argparse.SUPPRESS, "help": ABOUT.get(name)}
    if name in (*LISTS, "templates"):
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


def _prompt_list(parser: argparse.ArgumentParser) -> None:
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
        choices=("words", "csv", "sensitive", "style"),
        help="default: words, csv with --prompts",
    )
    for name, text in about.items():
        parser.add_argument(f"--{name}", default=None, help=text)
    parser.add_argument("--limit", type=int, default=None, metavar="N", help="only the first N rows")


def _drawing(parser: argparse.ArgumentParser, out: str, one_prompt: bool = False) -> None:
    parser.add_argument("--model", default=None, help="default: the run's, else emoji")
    parser.add_argument("--run", default=None, metavar="RUN", help="id or folder of a run")
    parser.add_argument("--key", default="own", help="own, none, concept names, or the path of a key file")
    _passphrase(parser)
    if one_prompt:
        parser.add_argument("--prompt", required=True)
        parser.add_argument("--seed", type=int, default=0)
    else:
        parser.add_argument("--prompts", "--prompt", nargs="+", required=True, metavar="TEXT")
        _seeds(parser, "0")
    parser.add_argument("--out", default=out, help=f"default: {out}")
    _sampling(parser)
    _device(parser)


def _passphrase(parser: argparse.ArgumentParser) -> None:
    about = "passphrase of a sealed key (else KPOP_PASSPHRASE, else asked for)"
    parser.add_argument("--passphrase-file", default=None, metavar="FILE", help=about)


def _safety(parser: argparse.ArgumentParser) -> None:
    about = "strength of a run made by sld (default: strong)"
    parser.add_argument("--safety", choices=("weak", "medium", "strong", "max"), default="strong", help=about)


def _seeds(parser: argparse.ArgumentParser, default: str) -> None:
    about = f"such as 0-3 or 1,5,9 (default: {default})"
    parser.add_argument("--seeds", "--seed", default=default, metavar="SEEDS", help=about)


def _sampling(parser: argparse.ArgumentParser) -> None:
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


def _reproducing(parser: argparse.ArgumentParser) -> None:
    about = "table2 to table6, fig2 to fig12, recovery, phrasings, pairs, tuning, or all"
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
    parser.add_argument("--pictures", type=int, default=None, metavar="N", help="a prompt; for a trial")
    parser.add_argument("--steps", type=int, default=None, metavar="N", help="of a training; for a trial")


def _device(parser: argparse.ArgumentParser, default: str | None = "auto") -> None:
    parser.add_argument("--device", default=default, help="auto, cpu, cuda, cuda:1 or mps")


def _runner(parser: argparse.ArgumentParser, default: str | None) -> None:
    about = f"here, or on the Ray cluster at RAY_ADDRESS (default: {default or 'as it was'})"
    parser.add_argument("--runner", choices=("local", "ray"), default=default, help=about)
