"""What `reproduce` does: list or make the cells of tables and figures, then write these."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from .cli_values import seed_list
from .command_output import output_folder, progress_bar
from .config import GenerationConfig
from .errors import InputError, KpopError, ModelError
from .run_commands import portable, runs_dir

GPU_BATCH = 64  # pictures drawn at once on a GPU; not part of what a cell is
Judges = Callable[[str], Any]  # name -> detector, each loaded once
BUILD_SECONDS = 0.5  # of a target with its plot: what --minutes leaves for it


def reproduce(args: argparse.Namespace) -> None:
    """Make what is missing, then write every target; its paths on stdout. --dry-run only lists.

    Raises InputError, ModelError, RunError, and KpopError where cells failed, once all else is written.
    """
    began = time.monotonic()
    from . import models
    from .evaluation import detectors, targets
    from .evaluation.cells import Store
    from .evaluation.plan import Plan

    chosen = targets.named(args.targets)
    if args.jobs < 1 or (args.minutes is not None and (args.minutes <= 0 or args.jobs == 1)):
        raise InputError("--jobs must be 1 or more, --minutes above 0, and --minutes goes with --jobs.")
    if args.jobs > 1 and args.runner == "ray":
        raise InputError("--jobs is for this machine: with --runner ray the cluster decides. Leave one out.")
    scale = _scale(args)
    name = detectors.judge_for(args.model)
    sampling = GenerationConfig().resolved(args.model)
    if models.pick_device(args.device).type == "cuda":
        sampling = replace(sampling, batch_size=GPU_BATCH)
    told = Plan(args.model, models.model_hash(args.model), name, scale, sampling)
    judges = cache(detectors.load)
    chosen = _possible(chosen, told, judges, args)
    store = Store(Path(args.cells))
    if args.dry_run:
        _list(chosen, told, store, runs_dir(args) / "reproduce")
        return
    out = output_folder(args.out)
    aside = args.jobs > 1 and not args.existing  # processes of their own hold the model
    maker = None if aside or args.existing else _maker(args, store, judges)
    until = None if args.minutes is None else began + 60 * args.minutes - BUILD_SECONDS * len(chosen)
    failed = _make_side_by_side(chosen, told, args, store, until) if aside else []
    for target in sorted(chosen, key=lambda one: aside and one.name == "fig2"):  # it may take until the limit
        plan = target.plan(told)
        rows = target.rows(plan)
        if args.runner == "ray" and maker is not None:
            _make_on_cluster(target, plan, args, store)
        elif maker is not None:
            _make(target, plan, maker)
        have, want = targets.count(rows, store)
        print(f"{target.name}: {have} of {want} cells", file=sys.stderr)
        if aside and target.name == "fig2":
            failed += _build_aside(target, plan, args, have == want, until)
            continue
        result = target.build(plan, rows, store, maker)
        paths = targets.write_result(result, out, plan)
        for path in paths:
            print(path)
        if not paths:
            print(_kept(target.name), file=sys.stderr)
    if failed:
        raise KpopError(failed[0] if len(failed) == 1 else f"{failed[0]} And {len(failed) - 1} more cells.")


def _kept(name: str) -> str:
    return f"{name} stays as it is: the one there is of more cells. Choose another folder with --out."


def _scale(args: argparse.Namespace):
    """The scale with what --splits, --train-seeds, --pictures and --steps say put over it. InputError."""
    from .evaluation.plan import SCALES

    scale, splits = SCALES[args.scale], SCALES["full"].splits
    for name in ("pictures", "steps"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} must be 1 or more, not {value}.")
        scale = scale if value is None else replace(scale, **{name: value})
    if args.train_seeds is not None:
        scale = replace(scale, seeds=tuple(seed_list(args.train_seeds)))
    if args.splits is not None:
        scale = replace(scale, splits=tuple(seed_list(args.splits)))
        if not set(scale.splits) <= set(splits):
            raise InputError(f"--splits must be among {splits[0]} to {splits[-1]}, not {args.splits[:60]}.")
    return scale


def _possible(chosen, told, judges: Judges, args: argparse.Namespace) -> list:
    """The targets that can be made; of several, those that cannot are named and left out.

    Raises InputError or ModelError where none can.
    """
    found, without = [], []
    for target in chosen:
        try:
            _check(target, target.plan(told), judges, args)
        except (InputError, ModelError) as error:
            without.append(error)
        else:
            found.append(target)
    if not found:
        raise without[0]
    for line in dict.fromkeys(map(str, without)):
        print(line, file=sys.stderr)
    return found


def _check(target, plan, judges: Judges, args: argparse.Namespace) -> None:
    """Raises InputError or ModelError where a target cannot be made: before a picture is drawn."""
    from .evaluation.plan import looks_of
    from .evaluation.targets import check

    if args.existing and target.name == "fig2":
        raise InputError("fig2 is made from a run's weights, not from cells: leave --existing out.")
    judge = judges(plan.judge)
    check(target, plan, judge)
    if not args.existing and not args.dry_run and plan.family != "emoji":
        from .evaluation.cell_maker import MEASURED, measure

        for column in sorted(looks_of(target.needs(plan)) & MEASURED.keys()):
            measure(column, judge, args.device)


def _maker(args: argparse.Namespace, store, judges: Judges):
    from . import models
    from .evaluation.cell_maker import Maker
    from .precision import training_dtype

    dtype = training_dtype("auto", args.device)
    pipe = models.load_pipeline(args.model, args.device, dtype)
    return Maker(pipe, judges, store, runs_dir(args) / "reproduce", args.device)


def _make(target, told, maker) -> None:
    """Every missing cell of a target, with a bar for what is being done."""
    from .evaluation.plan import is_whole, merged

    cells = merged(target.needs(told))
    for number, (spec, wanted) in enumerate(cells, 1):
        if is_whole(maker.store, spec, wanted):
            continue
        print(f"{target.name}, cell {number} of {len(cells)}: {spec.name}", file=sys.stderr)
        with progress_bar("") as show:
            maker.tell = lambda what, done, of, show=show: show(done, of, what)
            maker.make(spec, wanted)


def _make_side_by_side(chosen, told, args: argparse.Namespace, store, until: float | None) -> list[str]:
    """The missing cells of all targets, --jobs at a time; a sentence for each that failed."""
    from tqdm import tqdm

    from .disk import clear_torn
    from .evaluation.cell_pool import make_all
    from .evaluation.plan import is_whole, merged

    every = merged(need for target in chosen for need in target.needs(target.plan(told)))
    cells = [need for need in every if not is_whole(store, *need)]
    over = 0
    with progress_bar("cell", len(cells)) as show:

        def tell(what) -> None:
            nonlocal over
            name = cells[what.number][0].name
            if what.error is None:
                tqdm.write(f"begun: {name}", file=sys.stderr)
                return
            over += 1
            line = f"{over} of {len(cells)}, {what.seconds:.0f} s: {name} {what.error}".rstrip()
            tqdm.write(line, file=sys.stderr)
            show(over, len(cells))

        worker = partial(_cell_worker, portable(args))
        failed = make_all(cells, worker, args.jobs, _minutes_to(until), tell)
    clear_torn(store.folder)
    for spec, _ in every:
        store.load(spec, anew=True)
    left = sum(not is_whole(store, *need) for need in every)
    if left:
        print(f"{left} of {len(every)} cells are missing; the same command makes them.", file=sys.stderr)
    return failed


def _build_aside(target, told, args: argparse.Namespace, whole: bool, until: float | None) -> list[str]:
    """Write a target that needs a run's weights, in a process that ends with the limit; what failed."""
    from .evaluation.cell_pool import make_all

    paths, failed = [], []

    def tell(what) -> None:
        if what.error == "":
            kinds = ("json", "md", "png", "svg")
            paths.extend(output_folder(args.out) / f"{target.name}.{kind}" for kind in kinds)

    if whole:
        worker = partial(_target_worker, portable(args), told)
        failed = make_all([target.name], worker, 1, _minutes_to(until), tell)
    for path in paths:
        print(path)
    if not paths and not failed:
        print(f"{target.name} is left out: its cell is missing, or there was no time.", file=sys.stderr)
    return failed


def _minutes_to(until: float | None) -> float | None:
    return None if until is None else max(0.0, until - time.monotonic()) / 60


def _cell_worker(args: argparse.Namespace):
    """What makes one cell in a worker process: the model and the judges are loaded once."""
    maker = _maker_aside(args, args.jobs)
    return lambda cell: maker.make(*cell)


def _target_worker(args: argparse.Namespace, told):
    """What builds and writes one target in a worker process."""
    from .evaluation import targets

    maker = _maker_aside(args, 1)

    def build(name: str) -> None:
        target = targets.targets()[name]
        result = target.build(told, target.rows(told), maker.store, maker)
        if not targets.write_result(result, output_folder(args.out), told):
            print(_kept(name), file=sys.stderr)

    return build


def _maker_aside(args: argparse.Namespace, jobs: int):
    """A maker of one of `jobs` processes, with its share of the cores."""
    import torch

    from . import models
    from .evaluation import detectors
    from .evaluation.cells import Store

    on_gpu = models.pick_device(args.device).type == "cuda"  # the cores only launch its work
    torch.set_num_threads(1 if on_gpu else max(1, (os.cpu_count() or 1) // jobs))
    maker = _maker(args, Store(Path(args.cells)), cache(detectors.load))
    maker.takes_turns = False  # the workers share the device by themselves
    return maker


def _make_on_cluster(target, told, args: argparse.Namespace, store) -> None:
    """Every missing cell of a target as a task of a Ray cluster; --cells and --runs are on shared storage."""
    from .evaluation.plan import is_whole, merged
    from .ray_runner import elsewhere

    cells = [need for need in merged(target.needs(told)) if not is_whole(store, *need)]
    if cells:
        print(f"{target.name}: {len(cells)} cells to make", file=sys.stderr)
        with progress_bar("cell", len(cells)) as show:
            elsewhere(cell_on_node, [(portable(args), *need) for need in cells], args.device, show)
        for spec, _ in cells:
            store.load(spec, anew=True)


def cell_on_node(args: argparse.Namespace, spec, wanted, device: str) -> None:
    """Make one cell in a task of a cluster."""
    from .evaluation import detectors
    from .evaluation.cells import Store

    args.device = device
    _maker(args, Store(Path(args.cells)), cache(detectors.load)).make(spec, wanted)


def _list(chosen, told, store, work: Path) -> None:
    """The cells of every target, whether each is there, and how long the missing ones take.

    work: the folder of their runs.
    """
    from .evaluation.plan import merged, minutes_of, work_left

    for target in chosen:
        cells = merged(target.needs(target.plan(told)))
        found = [(spec, work_left(store, spec, wanted, work)) for spec, wanted in cells]
        have = sum(not left.pictures for _, left in found)
        minutes = minutes_of(left for _, left in found)
        print(f"{target.name}: {target.title}. {have} of {len(found)} cells, {_time(told, minutes)} left")
        for spec, left in found:
            print(f"  {spec.name}  {_told(told, left)}")
    if len(chosen) > 1:
        every = merged(need for target in chosen for need in target.needs(target.plan(told)))
        minutes = minutes_of(work_left(store, *need, work) for need in every)
        print(f"together, {len(every)} cells, each made once: {_time(told, minutes)}")
    print(
        "Arithmetic: 9 ms a row through the U-Net on two CPU cores (0.45 s a picture of 25 guided steps); a "
        "row that is trained on counts 2.2; trajectories as if none were in the cache, once for all cells."
        if told.family == "emoji"
        else "There is no measured time for this model yet."
    )


def _told(told, work) -> str:
    from .evaluation.plan import minutes_of

    if not work.pictures:
        return "there"
    return f"missing: {work.steps} steps, {work.pictures} pictures, {_time(told, minutes_of([work]))}"


def _time(told, minutes: float) -> str:
    return f"about {minutes:.1f} min" if told.family == "emoji" else "no estimate"
