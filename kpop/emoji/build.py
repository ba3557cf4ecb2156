"""From drawings to assets/emoji-diffusion in one resumable command: `python -m kpop.emoji build`.

Five stages, each leaving its product in the work folder: autoencoder, judge, alignment (the judge's CLIP),
latents, denoiser. A stage whose product is there is not done again; stages may be made apart (--stages).
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import torch

from kpop.disk import write_text
from kpop.emoji import stages as making
from kpop.emoji.distractors import DISTRACTORS
from kpop.emoji.drawings import load_drawings
from kpop.emoji.recipe import STAGES, WEIGHTS_FILE, Builder, Recipe
from kpop.emoji.scenes import Drawings
from kpop.models import file_hash
from kpop.processes import launched


def build(
    out: Path,
    work: Path,
    drawings_cache: Path,
    recipe: Recipe | None = None,
    drawings: Drawings | None = None,
    start: Path | None = None,
    stages: tuple[str, ...] = tuple(STAGES),
    judge: Path | None = None,
) -> Path:
    """Run each of `stages` that is not done yet; with all done, write the model folder `out`; returns it.

    Products and checkpoints lie in `work`, outside the repository, and the same command finds them again.
    `drawings` takes the place of the fetched ones (a smoke build draws its own). With `start`, the folder of
    an earlier model of the same shape, training goes on from its weights: the encoder stays as it is, all
    else learns on, save a stage whose steps are 0, which is taken over; objects that model was measured to
    draw badly come more often. judge: the work folder of another build, whose judge and CLIP are taken over
    (the judge learns from scenes alone, so one serves models of any shape). Processes launched together share
    each training. Raises KpopError when drawings cannot be had, and where `work` holds the products of
    another recipe.
    """
    recipe = recipe or Recipe()
    processes = launched()
    work.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda", processes.rank) if torch.cuda.is_available() else torch.device("cpu")
    others: Drawings = {}
    if drawings is None:
        drawings, others = world_drawings(drawings_cache)
    builder = Builder(recipe, work, drawings, others, start, device, processes, judge)
    made = {
        "autoencoder": making.make_autoencoder,
        "judge": making.make_judge,
        "alignment": making.make_alignment,
        "latents": making.make_latents,
        "denoiser": making.make_denoiser,
    }
    for stage in stages:
        if not builder.has(stage):
            torch.manual_seed(recipe.seed)
            if builder.taken(stage):
                shutil.copytree(judge / stage, builder.place(stage), dirs_exist_ok=True)
            else:
                made[stage](builder)
            builder.finish(stage)
    if processes.leads and all(builder.has(stage) for stage in STAGES):
        write_model(builder, out)
    processes.wait()
    return out


def world_drawings(cache: Path) -> tuple[Drawings, Drawings]:
    """The world's own drawings, and those of distractors. Raises KpopError when they cannot be had."""
    distractors = {name.replace("-", " "): name for name in DISTRACTORS}
    return load_drawings(cache), load_drawings(cache, icons_of=distractors)


def write_model(builder: Builder, out: Path) -> None:
    """The model folder, from what all stages left."""
    leave = shutil.ignore_patterns("recipe.json")
    for stage, where in (("denoiser", out), ("judge", out / "judge"), ("alignment", out / "judge" / "clip")):
        if stage != "alignment" or builder.recipe.alignment_steps:
            shutil.copytree(builder.place(stage), where, dirs_exist_ok=True, ignore=leave)
    shutil.copyfile(builder.place("latents") / "words.json", out / "words.json")
    device = torch.cuda.get_device_name(builder.device) if builder.device.type == "cuda" else "cpu"
    measured = json.loads((builder.place("autoencoder") / "measured.json").read_text())
    record = {
        "recipe": asdict(builder.recipe),
        "stages": builder.stamps(),
        "device": device,
        "started_from": file_hash(builder.start / "unet" / WEIGHTS_FILE) if builder.start else None,
        "autoencoder_psnr": measured["psnr"],
    }
    write_text(out / "build.json", json.dumps(record, indent=1) + "\n")
