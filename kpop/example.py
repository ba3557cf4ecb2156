"""Makes the run that ships with the app: trained, its key marked public, its first pictures and maps kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .disk import disk_error, replacing
from .errors import InputError, KpopError, RunError
from .kept import (
    FIRST_SEEDS,
    OWN,
    Sheet,
    first_prompt,
    folder_of,
    keep_maps,
    read_sheet,
    write_sheet,
)
from .method_table import METHODS
from .runs import ID, Run, open_run

if TYPE_CHECKING:
    from .config import EraseConfig

OWNER = "example"
SHIPPED = {"config.json", "status.json", "metrics.jsonl", "samples", "secret", "weights.safetensors"}


def make_example(
    cfg: EraseConfig, out: str | Path, device: str = "auto", on_step: Callable | None = None
) -> Run:
    """Train `cfg` and leave it at `out` as an example run, whole or not at all; an older one is replaced.

    Its seed is 0 where cfg names none: everybody has its key, and can make it again. What names this machine
    is cleared, checkpoint and log are dropped. on_step: as in training.train.
    Raises InputError where `out` holds something else, and what the training raises.
    """
    if not METHODS[cfg.method].has_key:
        raise InputError("An example shows its key: leave out method, or set it to kpop.")
    if cfg.base_run is not None:
        raise InputError("An example stands alone: leave out base_run.")
    cfg = replace(cfg, seed=cfg.seed or 0)
    out = _checked(Path(out).expanduser().absolute())
    with replacing(out) as made:
        from . import training

        trained = training.train(cfg, made.parent / "runs", on_step=on_step, device=device)
        trained.path.rename(made)  # its pictures carry the run's final name
        run = open_run(made)
        _publish_keys(run)
        _strip(run)
        _draw_first(run, device)
    return open_run(out)


def _checked(out: Path) -> Path:
    if not ID.fullmatch(out.name):
        raise InputError(f"{out.name!r} cannot name a run: use a-z, 0-9 and hyphens, such as example-run.")
    try:
        taken = out.exists() and any(out.iterdir())
    except OSError as error:
        raise disk_error(error, out) from error
    if taken and not ((out / "status.json").is_file() and open_run(out).status.owner == OWNER):
        raise InputError(f"{out} holds something else than an example run. Choose a new or empty folder.")
    return out


def _publish_keys(run: Run) -> None:
    """Say in the key files that everybody has them; drop the optimizer state beside them."""
    from .hidden_prompt import HiddenPrompt

    shared = run.config.prompt_sharing == "shared"
    keys = {run.key_path(None if shared else concept) for concept in run.config.concepts}
    for path in keys:
        key = HiddenPrompt.load(path)
        replace(key, about={**key.about, "public": "true"}).save(path)
    for path in set(run.secret_dir.iterdir()) - keys:
        path.unlink()


def _strip(run: Run) -> None:
    """Keep what a reader needs, without process, host and device of this machine."""
    run.update_status(
        owner=OWNER, runner="inline", host="", pid=None, create_time=None, heartbeat=None, eta_s=None,
        device="auto", queued_at=None, stop_asked=None,
    )  # fmt: skip
    for path in run.path.iterdir():
        if path.name not in SHIPPED:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _draw_first(run: Run, device: str) -> None:
    """The first sheet and, where they are small, the first maps: what the page would draw when opened."""
    from . import generation, models
    from .attribution import attribute

    pipe, prompt = models.load_pipeline(run.config.model, device=device), first_prompt(run)
    images = generation.compare(pipe, [prompt], list(FIRST_SEEDS), run, key=OWN)
    words = {variant: _named(images[variant], run.config.model) for variant in images}
    sheet = Sheet(run.id, prompt, FIRST_SEEDS, OWN, images, words)
    folder = folder_of(run, prompt, FIRST_SEEDS)
    write_sheet(sheet, folder)
    if read_sheet(folder, run, prompt, FIRST_SEEDS) is None:
        raise RunError(f"Its first pictures cannot be written to {run.path.parent}. Check the disk.")
    variants = run.method.variants
    keep_maps([attribute(pipe, prompt, FIRST_SEEDS[0], variant, run=run) for variant in variants], run)


def _named(images: list, model: str) -> list[str]:
    """The judge's word for each picture; "" where the model has no judge."""
    from .evaluation import detectors

    try:
        judge = detectors.load(model)
    except KpopError:
        judge = None
    return detectors.first_words(judge, images)
