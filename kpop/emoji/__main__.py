"""`python -m kpop.emoji build`: make Emoji Diffusion from its drawings; it goes on where it stopped."""

import argparse
import json
import os
import sys
from pathlib import Path

from platformdirs import user_cache_dir

from kpop.command_output import progress_bar
from kpop.emoji.build import build, world_drawings
from kpop.emoji.quality import PARTS, measure
from kpop.emoji.recipe import STAGES, Recipe
from kpop.errors import KpopError

_RECIPE_FLAGS = {
    "seed": "of scenes and training",
    "size": "of a picture, in pixels",
    "scenes": "of the denoiser",
    "pairs": "share of scenes with two objects",
    "steps": "of the denoiser",
    "batch_size": "of the denoiser, a process",
    "learning_rate": "of the denoiser",
    "vae_scenes": "of the autoencoder",
    "vae_steps": "of the autoencoder",
    "vae_batch_size": "of the autoencoder, a process",
    "judge_scenes": "of the judge and its CLIP",
    "judge_steps": "of the judge",
    "judge_batch_size": "of the judge, a process",
    "alignment_steps": "of the judge's CLIP",
    "alignment_batch_size": "of the judge's CLIP, a process",
}


def main(arguments: list[str] | None = None) -> int:
    """Parse and run; 0 when the model folder is written, 2 with one line on bad input, 130 on Ctrl-C."""
    cache = Path(os.environ.get("KPOP_CACHE") or user_cache_dir("kpop-studio")) / "emoji"
    parser = argparse.ArgumentParser(prog="python -m kpop.emoji", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build_parser = commands.add_parser(
        "build", help="train every stage that is not done and write the folder"
    )
    build_parser.add_argument("--out", type=Path, default=Path("assets/emoji-diffusion"))
    build_parser.add_argument("--work", type=Path, default=cache / "build", help="checkpoints (%(default)s)")
    build_parser.add_argument(
        "--drawings", type=Path, default=cache / "drawings", help="icon packages (%(default)s)"
    )
    for name, what in _RECIPE_FLAGS.items():
        kind, default = Recipe.__annotations__[name], getattr(Recipe, name)
        flag = "--" + name.replace("_", "-")
        build_parser.add_argument(flag, type=kind, help=f"{what} ({default})")
    build_parser.add_argument(
        "--vae-channels", type=int, nargs="+", metavar="N",
        help=f"of each level of the autoencoder, which halves the picture between two {Recipe.vae_channels}",
    )  # fmt: skip
    build_parser.add_argument(
        "--stages", default=",".join(STAGES), help="only these, comma-separated (%(default)s)"
    )
    build_parser.add_argument(
        "--start", type=Path, help="go on from the weights of this earlier model folder"
    )
    build_parser.add_argument(
        "--judge", type=Path, help="work folder of a build whose judge and CLIP this one takes over"
    )
    build_parser.add_argument("--no-compile", action="store_true", help="do without torch.compile")
    drawings_parser = commands.add_parser("drawings", help="fetch and render the drawings, and no more")
    drawings_parser.add_argument("--drawings", type=Path, default=cache / "drawings")
    quality_parser = commands.add_parser(
        "evaluate", help="judge what it draws; write its card and docs/emoji-diffusion.md"
    )
    quality_parser.add_argument("--model", type=Path, default=Path("assets/emoji-diffusion"))
    quality_parser.add_argument("--first-seed", type=int, default=500)
    quality_parser.add_argument("--images", type=int, default=50, help="pictures an object (%(default)s)")
    quality_parser.add_argument("--parts", help="comma-separated; without it all: " + ", ".join(PARTS))
    quality_parser.add_argument("--sheet", type=Path, default=Path("docs/emoji-samples.png"))
    commands.add_parser("pictures", help="draw what the page shows first into assets/pictures")
    given = parser.parse_args(arguments)
    try:
        result = {
            "build": _build, "drawings": _drawings, "evaluate": _evaluate, "pictures": _pictures
        }[given.command](given)  # fmt: skip
    except KpopError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped; the same command goes on from the last checkpoint.", file=sys.stderr)
        return 130
    print(result)
    return 0


def _build(given: argparse.Namespace) -> Path:
    changes = {name: getattr(given, name) for name in _RECIPE_FLAGS if getattr(given, name) is not None}
    stages = tuple(given.stages.split(","))
    unknown = set(stages) - set(STAGES)
    if unknown or any(not isinstance(value, float) and value < 0 for value in changes.values()):
        raise KpopError(f"--stages knows {', '.join(STAGES)}; numbers must not be negative.")
    if given.vae_channels:
        changes["vae_channels"] = tuple(given.vae_channels)
    recipe = Recipe(compile_unet=not given.no_compile, **changes)
    if given.judge and not all(
        (given.judge / stage / "recipe.json").is_file() for stage in ("judge", "alignment")
    ):
        raise KpopError(f"{given.judge} holds no finished judge and alignment of a build.")
    return build(
        given.out, given.work, given.drawings, recipe, start=given.start, stages=stages, judge=given.judge
    )


def _drawings(given: argparse.Namespace) -> str:
    known, others = world_drawings(given.drawings)
    return f"{len(known) + len(others)} drawings in {given.drawings}"


def _pictures(given: argparse.Namespace) -> str:
    from kpop.first_pictures import SHIPPED, draw_first
    from kpop.models import load_pipeline

    return f"{draw_first(load_pipeline('emoji'))} pictures in {SHIPPED}"


def _evaluate(given: argparse.Namespace) -> str:
    from kpop.emoji import card
    from kpop.models import load_pipeline

    parts = given.parts.split(",") if given.parts else list(PARTS)
    unknown = [part for part in parts if part not in PARTS]
    if unknown or given.images < 1:
        raise KpopError(f"--parts knows {', '.join(PARTS)}; --images must be 1 or more.")
    os.environ["KPOP_EMOJI_DIR"] = str(given.model)
    pipe = load_pipeline("emoji")
    kept = given.model / "quality.json"
    figures = json.loads(kept.read_text()) if kept.is_file() else {}
    # One part after another, so that an interrupted call keeps what it measured.
    for part in parts:
        seeds = range(given.first_seed, given.first_seed + given.images)
        with progress_bar("step") as show:
            figures |= measure(pipe, [part], seeds, lambda i, n, part=part: show(i, n, part))
        kept.write_text(json.dumps(figures, indent=1) + "\n")
    (given.model / "README.md").write_text(card.model_card(given.model, figures))
    given.sheet.parent.mkdir(parents=True, exist_ok=True)
    card.sample_sheet(pipe).save(given.sheet)
    page = given.sheet.with_name("emoji-diffusion.md")
    page.write_text(card.figures_doc(figures, given.sheet.name))
    return json.dumps(figures, indent=1)


if __name__ == "__main__":
    sys.exit(main())
