"""What the commands of cli.py do: parsed arguments in, an exit status out (None for 0)."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from . import jobs, runs
from .cli_values import (
    erase_config,
    evaluation_seeds,
    generation_config,
    key_of,
    key_told,
    seed_list,
    word_template,
)
from .command_output import output_folder, progress_bar, save_png, span, stop_on_interrupt
from .config import EraseConfig, concept_name
from .errors import InputError, KpopError
from .key_sealing import check_open
from .release_commands import for_key
from .run_commands import named_run, on_cluster, runs_dir, train_on_cluster
from .run_records import TRACE
from .runs import Run
from .tracking import check_tracker, tracked
from .turns import shared_turn

if TYPE_CHECKING:
    from .evaluation.detectors import Detector


def train(args: argparse.Namespace) -> int:
    """Train in this process. Ctrl-C saves and stops after the step, twice ends at once; both exit 130.

    --dry-run: only what it would be, as JSON on stdout.
    """
    cfg = erase_config(args).resolved()
    check_tracker(args.track)
    if cfg.base_run is not None:
        check_open(runs.open_run(cfg.base_run, runs_dir(args)))
    if args.runner == "ray" and not args.dry_run:
        return train_on_cluster(cfg, args)
    from . import models
    from .processes import launched
    from .run_texts import all_texts, style_beside_objects

    processes = launched(args.device)  # gives each process its own GPU, so before any model is loaded
    advice = style_beside_objects(cfg.model, cfg.concepts)
    if advice and processes.leads:
        print(advice, file=sys.stderr)
    dtype = "fp32" if cfg.precision == "fp32" else "auto"
    pipe = models.load_pipeline(cfg.model, device=args.device, dtype=dtype)
    for text in all_texts(cfg):
        models.check_text(pipe, text)
    if str(pipe.unet.dtype) == "torch.float16":
        pipe = None  # cards without bf16 draw in fp16, which cannot be trained in: the trainer loads its own
    if args.dry_run:
        return _dry_run(cfg, pipe, args)
    if not processes.leads:
        return _follow(cfg, args, pipe)
    run = runs.create_run(cfg, runs_dir(args), status="starting", device=args.device)
    print(f"{run.id}: {', '.join(map(concept_name, run.config.concepts))}", file=sys.stderr)
    status = 1
    try:
        with stop_on_interrupt(run) as interrupted, progress_bar("step", run.config.steps) as show:
            status = _train(run, args.device, pipe, show, args.track)
        status = 130 if interrupted else status
    finally:
        print(run.path)
    return status


def _follow(cfg: EraseConfig, args: argparse.Namespace, pipe) -> int:
    """The part of a process that accelerate launched beside the one that writes and speaks."""
    from .training import train as train_along

    train_along(cfg, runs_dir(args), pipe=pipe, device=args.device)
    return 0


def _dry_run(cfg: EraseConfig, pipe, args: argparse.Namespace) -> int:
    from .continual import earlier_of
    from .estimate import estimate_run, gigabytes
    from .pace import measure_pace, seconds_of

    if pipe is None:
        from . import models, precision

        dtype = precision.training_dtype(cfg.precision, args.device)
        pipe = models.load_pipeline(cfg.model, args.device, dtype)
    earlier = earlier_of(cfg, runs_dir(args))
    try:
        found = estimate_run(cfg, pipe, earlier)
    except InputError as error:
        print(json.dumps({"config": cfg.to_dict(), "estimate": None}, indent=2, ensure_ascii=False))
        print(f"{error} Nothing was trained.", file=sys.stderr)
        return 0
    seconds = seconds_of(cfg, pipe, measure_pace(pipe), earlier)
    told = {**found.to_dict(), "seconds": round(seconds, 1)}
    print(json.dumps({"config": cfg.to_dict(), "estimate": told}, indent=2, ensure_ascii=False))
    print(
        f"{found.trainable_parameters:,} parameters of the U-Net and {found.prompt_parameters:,} of the key; "
        f"about {gigabytes(found.memory)} and {span(seconds)} on {found.device}, as it is at this moment; "
        f"{found.bank_rows:,} U-Net rows for the bank, {found.step_rows:.1f} a step "
        f"({found.backward_rows} with backward). Nothing was trained.",
        file=sys.stderr,
    )
    return 0


def _train(run: Run, device: str, pipe, show: Callable, track: str | None) -> int:
    from .worker import in_words, train_run

    def on_step(event):
        tell(event)
        show(
            event.step,
            event.steps,
            " ".join(f"{k.removeprefix('l_')} {v:.3f}" for k, v in event.losses.items()),
        )

    try:
        with tracked(track, run) as tell:
            train_run(run, device, runner="inline", on_step=on_step, pipe=pipe)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        said = " ".join(in_words(error).split())
        with open(run.path / "log.txt", "a", encoding="utf-8") as file:
            file.write(said + "\n")
        more = "" if isinstance(error, KpopError) else f" Details: {run.path / TRACE}"
        print(f"\nkpop: {said}{more}", file=sys.stderr)
        return 1
    return 0


def generate(args: argparse.Namespace) -> None:
    """PNG files, one a prompt and seed; their paths on stdout."""
    config, seeds, key = generation_config(args), seed_list(args.seeds), key_of(args.key)
    run = for_key(named_run(args) if args.run else None, args)
    if run is None and args.variant != "original" and args.key in ("own", "none"):
        raise InputError(f"Name the run whose {args.variant} pictures you want with --run.")
    out = output_folder(args.out)
    pipe = _pipe(args, run)
    from .generation import generate as draw

    with jobs.device_lock(runs_dir(args)), progress_bar("step") as show:
        images = draw(
            pipe, args.prompts, seeds, args.variant, run, key, config, on_step=show, safety=args.safety
        )
    pairs = [(prompt, seed) for prompt in args.prompts for seed in seeds]
    for number, ((prompt, seed), image) in enumerate(zip(pairs, images, strict=True)):
        print(save_png(image, out / f"{number:04d}-{runs.slug(prompt)}-{args.variant}-seed{seed}.png"))


def compare(args: argparse.Namespace) -> None:
    """One sheet: a row a variant, a column a prompt and seed; its path on stdout."""
    if not args.run:
        raise InputError("Name the run to compare with --run.")
    config, seeds = generation_config(args), seed_list(args.seeds)
    run, key = for_key(named_run(args), args), key_of(args.key)
    out = Path(args.out).expanduser()
    out = out if out.suffix.lower() == ".png" else out / "compare.png"
    output_folder(out.parent)
    pipe = _pipe(args, run)
    from .contact_sheet import contact_sheet
    from .generation import compare as draw

    with jobs.device_lock(runs_dir(args)), progress_bar("step") as show:
        rows = draw(pipe, args.prompts, seeds, run, key=key, config=config, on_step=show, safety=args.safety)
    sheet = contact_sheet(rows, [f"{prompt}, seed {seed}" for prompt in args.prompts for seed in seeds])
    sheet.info["kpop"] = json.dumps({
        "run": run.id, "prompts": args.prompts, "seeds": seeds, "variants": list(rows),
        "config": config.resolved(run.config.model).to_dict(),
    }, ensure_ascii=False)  # fmt: skip
    print(save_png(sheet, out))


def attribute(args: argparse.Namespace) -> None:
    """A figure and a profile a word, all maps as .npz, numbers as .csv; their paths on stdout."""
    config, key = generation_config(args), key_of(args.key)
    run = for_key(named_run(args) if args.run else None, args)
    every = run.method.variants if run else ("original", "sanitized", "recovered")
    variants = _split(args.variants) if args.variants else list(every) if run else ["original"]
    unknown = [variant for variant in variants if variant not in every]
    if unknown:
        raise InputError(f"Unknown variant {unknown[0]!r}. Choose from: {', '.join(every)}.")
    if args.view == "difference" and len(variants) < 2:
        raise InputError("The difference needs two variants: name a run with --run.")
    words = _split(args.words) if args.words else None
    out = output_folder(args.out)
    pipe = _pipe(args, run)
    from . import models
    from .attribution import check_asked
    from .attribution_selection import bands_in
    from .attribution_views import draw_figures, watch_variants

    asked = [(args.prompt, words), *([(args.kept, None)] if args.kept else [])]
    bands = bands_in(args.timestep_band)
    for prompt, chosen in asked:
        check_asked(pipe, prompt, chosen, args.layer, bands, config)
    found = []
    for prompt, chosen in asked:
        with jobs.device_lock(runs_dir(args)), progress_bar("step") as show:
            found.append(
                watch_variants(pipe, prompt, args.seed, run, variants, key, config, chosen, on_step=show)
            )
    name = models.model_name(pipe)
    drawn = draw_figures(found, name, out, args.layer, bands, args.view, args.format)
    for path, sentence in drawn:
        print(path)
        if sentence:
            print(sentence, file=sys.stderr)


def evaluate(args: argparse.Namespace) -> None:
    """Predictions, metrics, report and plot in --out; a table and the paths on stdout."""
    if args.runner == "ray":
        return on_cluster(evaluate_on_node, args)
    if args.protocol is None:
        args.protocol = "csv" if args.prompts or args.images else "objects"
    if args.protocol != "objects":
        from .prompt_commands import evaluate_prompts

        return evaluate_prompts(args)
    config, seeds = generation_config(args), evaluation_seeds(args)
    template = word_template(args)
    run, words, judge = words_asked(args)
    out = output_folder(args.out or f"evaluation-{run.id}")
    from .evaluation import protocol, report

    pipe = _pipe(args, run)
    from . import models
    from .continual import judged_config
    from .generation import compare as draw
    from .run_texts import phrase

    for word in words:
        models.check_text(pipe, phrase(template, word))
    config = config.resolved(args.model or run.config.model)
    settings = {
        "run": run.id, "model": models.public_name(models.model_name(pipe)),
        "model_hash": models.model_hash(pipe), "weights": run.weights_stamp(), "key": key_told(args.key),
        "judge": judge.name,
        **({} if run.method.has_weights else {"safety": args.safety}),
        **{name: value for name, value in config.to_dict().items() if name != "batch_size"},
    }  # fmt: skip

    def pictures(prompt: str, some: list[int]) -> dict:
        with shared_turn(runs_dir(args)):
            return draw(pipe, [prompt], some, run, key=key_of(args.key), config=config, safety=args.safety)

    with progress_bar("picture") as show:
        found = protocol.evaluate(
            pictures, judge, judged_config(run), words, seeds, out, settings, template,
            config.batch_size, show, run.method.variants, run.config.resolved().neutral,
        )  # fmt: skip
    print(report.table(found))
    erased = ", ".join(map(concept_name, run.config.concepts))
    for path in report.write_report(found, out, f"What run {run.id} (erases {erased}) forgot and kept"):
        print(path)


def words_asked(args: argparse.Namespace) -> tuple[Run, list[str], Detector]:
    """The run, its words to draw and the judge of an evaluation by words. Raises KpopError."""
    from .continual import judged_config
    from .evaluation import detectors, protocol
    from .evaluation_plan import usual_words
    from .processes import check_alone

    check_alone("Several processes share the drawing of a list, which goes with --prompts, and not of words")
    if not args.run:
        raise InputError("Name the run to evaluate.")
    for name in ("base_images", "erased", "retained", "scores", "reference", "thresholds", "limit"):
        if getattr(args, name) is not None:
            raise InputError(f"--{name.replace('_', '-')} goes with --prompts or --protocol sensitive.")
    for name in ("prompts", "images"):
        if getattr(args, name) is not None:
            raise InputError(f"--protocol objects draws --words: leave --{name} or the protocol out.")
    run = for_key(named_run(args), args)
    config = judged_config(run)
    judge = detectors.load(args.judge or detectors.judge_for(args.model or run.config.model), args.device)
    words = usual_words(run, judge.labels) if args.words is None else _split(args.words)
    if judge.accuracy is None:
        raise InputError("NudeNet names parts of bodies; ask for it with --protocol sensitive.")
    for word in words:
        protocol.accepted_labels(word, config, judge.labels)
    return run, words, judge


def evaluate_on_node(args: argparse.Namespace, device: str) -> str:
    """`evaluate` as a task of a cluster; what it would print."""
    args.runner, args.device = "local", device
    with redirect_stdout(io.StringIO()) as told:
        evaluate(args)
    return told.getvalue()


def example(args: argparse.Namespace) -> None:
    """A run to ship: trained, stripped, with its first pictures; its path on stdout."""
    from .example import make_example

    cfg = erase_config(args).resolved()
    with progress_bar("step", cfg.steps) as show:
        run = make_example(cfg, args.out, args.device, lambda event: show(event.step, event.steps))
    print(run.path)


def presets_list(args: argparse.Namespace) -> None:
    """A line a preset."""
    from .presets import list_presets

    found = [("paper", "the paper's settings, for your own concepts")]
    for preset in list_presets():
        found.append((preset.name, f"{preset.title}{' (sensitive)' if preset.sensitive else ''}"))
    wide = max(len(name) for name, _ in found)
    for name, title in found:
        print(f"{name:<{wide}}  {title}")


def presets_show(args: argparse.Namespace) -> None:
    """One preset as JSON."""
    from .presets import PAPER, load_preset

    values = {"settings": dict(PAPER)} if args.name == "paper" else asdict(load_preset(args.name))
    settings = values["settings"]
    if "lambda_" in settings:
        settings["lambda"] = settings.pop("lambda_")
    print(json.dumps(values, indent=2, ensure_ascii=False))


def _pipe(args: argparse.Namespace, run: Run | None):
    from . import models

    return models.load_pipeline(args.model or (run.config.model if run else "emoji"), device=args.device)


def _split(text: str) -> list[str]:
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise InputError("Give at least one word, such as --words church,castle.")
    return found
