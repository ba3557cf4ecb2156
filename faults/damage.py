"""Checkpoints that a disk or a copy harmed: cut short, or with one bit turned over."""

from __future__ import annotations

import shutil
from pathlib import Path

from faults.figures import Figures
from faults.world import ONE_MODEL, World, learned
from kpop import jobs, train
from kpop.config import EraseConfig
from kpop.errors import KpopError
from kpop.models import load_pipeline
from kpop.runs import Run, open_run
from kpop.worker import train_run

STEPS, HALT = 6, 4


def damage(world: World, count: int) -> list[Figures]:
    """`count` times each: a random file of a checkpoint is damaged, then its run is resumed."""
    with ONE_MODEL:
        pipe = load_pipeline(str(world.model), "cpu", "fp32")
    changes = {"model": str(world.model), "steps": STEPS}
    cfg = EraseConfig.from_dict(world.settings | changes).resolved()
    with world:
        whole = train(cfg, world.runs, pipe=pipe)
        halted = train(cfg, world.runs, pipe=pipe, on_step=lambda event: _halt(world, event.step))
        rows = []
        for name, harm in (("checkpoint cut short", _cut), ("checkpoint with a bit turned over", _flip)):
            figures = Figures(name, asked=count)
            for turn in range(count):
                run = _copy(halted, f"{halted.id}-{name.split()[1]}-{turn}")
                path = world.draw.choice(_files(run))
                path.write_bytes(harm(world, path.read_bytes()))
                _judge(run, path, pipe, learned(whole), figures)
                shutil.rmtree(run.path)
            rows.append(figures)
    return rows


def _halt(world: World, step: int) -> None:
    if step == HALT:
        newest = max(world.runs.glob("*/config.json"), key=lambda path: path.stat().st_mtime)
        open_run(newest.parent).request_stop()


def _copy(run: Run, name: str) -> Run:
    return Run(shutil.copytree(run.path, run.path.with_name(name)))


def _files(run: Run) -> list[Path]:
    return sorted([*run.checkpoint_dir.glob("*.*"), *run.secret_dir.glob("prompt-*")])


def _cut(world: World, data: bytes) -> bytes:
    return data[: world.draw.randrange(len(data))]


def _flip(world: World, data: bytes) -> bytes:
    place = world.draw.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << world.draw.randrange(8)]) + data[place + 1 :]


def _judge(run: Run, path: Path, pipe, reference: str, figures: Figures) -> None:
    """Refused in words, or gone on as if nothing had been: anything else is a run lost."""
    figures.times += 1
    figures.struck += 1
    began = []
    try:
        jobs.prepare_resume(run)
        train_run(run, "cpu", on_step=lambda event: began.append(event.step), pipe=pipe)
    except KpopError as error:
        figures.shown(str(error))
        return
    except Exception as error:  # no words for a user
        figures.lost += 1
        figures.notes.append(f"{path.name}: {type(error).__name__}: {error}")
        return
    if began[:1] == [1]:
        figures.lost += 1
        figures.notes.append(f"{path.name}: began again at step 1 without a word")
        return
    figures.resumed += 1
    figures.equal += learned(run) == reference
    if learned(run) != reference:
        figures.lost += 1
        figures.notes.append(f"{path.name}: went on from other numbers without a word")
