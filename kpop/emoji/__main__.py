"""`python -m kpop.emoji build`: make Emoji Diffusion from its drawings; the same command goes on where it stopped."""

import argparse
import os
import sys
from pathlib import Path

from platformdirs import user_cache_dir

from kpop.errors import KpopError


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
    build_parser.add_argument("--steps", type=int, help="denoiser steps, if not the recipe's")
    build_parser.add_argument("--vae-steps", type=int, help="autoencoder steps, if not the recipe's")
    build_parser.add_argument("--no-compile", action="store_true", help="do without torch.compile")
    given = parser.parse_args(arguments)
    from kpop.emoji.build import Recipe, build

    changes = {"steps": given.steps, "vae_steps": given.vae_steps}
    changes = {name: value for name, value in changes.items() if value is not None}
    try:
        folder = build(
            given.out, given.work, given.drawings, Recipe(compile_unet=not given.no_compile, **changes)
        )
    except KpopError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped; the same command goes on from the last checkpoint.", file=sys.stderr)
        return 130
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
