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
from importlib import import_module
from pathlib import Path

from .cli_flags import (
    device_flag,
    drawing_flags,
    erase_flags,
    passphrase_flag,
    prompt_list_flags,
    reproduce_flags,
    runner_flag,
    safety_flag,
    sampling_flags,
    seeds_flag,
)
from .cli_values import (
    EVALUATION_SEEDS,
    WORD_TEMPLATE,
    concept_list,
    erase_config,
    generation_config,
    seed_list,
)
from .errors import InputError, KpopError
from .tracking import TRACKERS

__all__ = ["build_parser", "concept_list", "erase_config", "generation_config", "main", "seed_list"]

MODULES = {
    "key": "release_commands",
    "release": "release_commands",
    "reproduce": "reproduce_commands",
    "runs": "run_commands",
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
    erase_flags(train)
    train.add_argument(
        "--config", default=None, metavar="FILE", help="settings as .yaml or .json; flags win over it"
    )
    train.add_argument(
        "--dry-run", action="store_true", help="only say what it would train, in how much memory"
    )
    train.add_argument("--track", choices=TRACKERS, default=None, help="losses to it too, if installed")
    runner_flag(train, "local")
    device_flag(train)

    generate = _command(commands, "generate", "draw pictures of prompts and seeds as PNG files")
    generate.add_argument("--variant", choices=("original", "sanitized", "recovered"), default="original")
    drawing_flags(generate, "pictures")
    safety_flag(generate)
    compare = _command(commands, "compare", "draw original, sanitized and any recovered on one sheet")
    drawing_flags(compare, "compare.png")
    safety_flag(compare)
    attribute = _command(commands, "attribute", "draw where every attention head looks, per word")
    drawing_flags(attribute, "attribution", one_prompt=True)
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
        "--timestep-band", default=None, metavar="BAND", help="noise 0 to picture 4, or several: 1-3"
    )
    attribute.add_argument("--view", choices=("overlay", "heat", "difference"), default="overlay")

    evaluate = _command(commands, "evaluate", "what was forgotten and kept: base, sanitized, recovered")
    evaluate.add_argument("run", metavar="RUN", nargs="?", help="id or folder of a run")
    evaluate.add_argument(
        "--words",
        default=None,
        metavar="A,B",
        help="default: all it erases and retains, three others",
    )
    evaluate.add_argument("--template", default=None, help=f"prompt of a word (default: '{WORD_TEMPLATE}')")
    evaluate.add_argument("--judge", default=None, help="emoji, resnet50 or nudenet (default: by the model)")
    prompt_list_flags(evaluate)
    evaluate.add_argument("--out", default=None, help="folder (default: evaluation-RUN)")
    evaluate.add_argument("--model", default=None, help="default: the run's")
    evaluate.add_argument("--key", default="own", help="own, none, concept names, or the path of a key file")
    passphrase_flag(evaluate)
    seeds_flag(evaluate, EVALUATION_SEEDS)
    evaluate.set_defaults(seeds=None)  # a prompt list brings its own
    safety_flag(evaluate)
    sampling_flags(evaluate)
    runner_flag(evaluate, "local")
    device_flag(evaluate)

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
            passphrase_flag(action)
            runner_flag(action, None)
            device_flag(action, None)

    release = _command(commands, "release", "write the sanitized model for others; the key stays here")
    release.add_argument("run", metavar="RUN", help="id or folder of a run")
    release.add_argument("--out", required=True, metavar="DIR", help="a new folder, or an earlier release")
    release.add_argument("--form", choices=("diffusers", "delta", "single-file", "all"), default="diffusers")
    release.add_argument(
        "--evaluation", default=None, metavar="DIR", help="folder of `evaluate`, for the table in the card"
    )
    release.add_argument("--push", default=None, metavar="USER/NAME", help="say what would go to the hub")
    release.add_argument("--really", action="store_true", help="send it")
    passphrase_flag(release)
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
        passphrase_flag(action)
        if name == "check":
            action.add_argument("--release", default=None, metavar="DIR", help="folder to search for the key")

    example = _command(commands, "example", "train a run to ship: its key public, its first pictures drawn")
    erase_flags(example)
    example.add_argument("--out", required=True, help="folder, such as assets/example-run")
    device_flag(example)

    reproduce = _command(commands, "reproduce", "make the paper's tables and figures on a model")
    reproduce_flags(reproduce)
    runner_flag(reproduce, "local")
    device_flag(reproduce)

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
