"""`evaluate --protocol csv|sensitive|style`: a prompt list, drawn here or elsewhere, the base beside."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .cli_values import concept_list, evaluation_seeds, generation_config, key_of, key_told
from .command_output import output_folder, progress_bar
from .config import EraseConfig, GenerationConfig, names
from .errors import InputError
from .evaluation import detectors, picture_folders, prompt_protocol, prompt_report, scores, sensitive, styles
from .evaluation.detectors import Detector
from .evaluation.metrics import THRESHOLDS, check_threshold
from .evaluation.predictions import Predictions
from .evaluation.prompt_table import ALL, ARTIST, Case, PromptTable, read_prompts
from .evaluation.protocol import VARIANTS, role_of
from .model_table import family
from .processes import Processes, launched
from .release_commands import for_key
from .run_commands import named_run, runs_dir
from .runs import Run
from .turns import shared_turn


def evaluate_prompts(args: argparse.Namespace) -> None:
    """Pictures, predictions, metrics, report and plot in --out; a table and the paths on stdout."""
    processes = launched(args.device)  # gives each process its own GPU, so before any model is loaded
    asked = prepare(args)
    run, cases, judge, found = asked.run, asked.cases, asked.judge, asked.found
    out = output_folder(args.out or f"evaluation-{run.id if run else 'pictures'}-{args.protocol}")
    painter = _Painter(args, asked) if asked.drawn else None
    settings = _settings(args, run, asked.table, judge, painter)
    if processes.leads:
        store = Predictions.open(out, settings, prompt_protocol.COLUMNS, prompt_protocol.key_of)
    processes.wait()
    if painter is not None:
        found = found | painter.places(out / "pictures")
    variants = [variant for variant in VARIANTS if variant in found]
    every, paths = picture_folders.with_copies(cases, {variant: found[variant] for variant in variants})

    def judged(some: Sequence[Case]) -> None:
        prompt_protocol.predict(some, paths, judge, asked.measured, store)

    if painter is not None:
        # Several processes draw apart, and the first one judges what all have drawn.
        painter.draw_missing(out / "pictures", processes, judged if processes.count == 1 else None)
    if not processes.leads:
        return
    with progress_bar("prediction") as show:
        prompt_protocol.predict(every, paths, judge, asked.measured, store, show)
    store.tidy()
    result = replace(
        prompt_protocol.count(args.protocol, every, variants, store, asked.measured, **asked.counted),
        distances=prompt_protocol.set_distances(every, paths, asked.measured, asked.references, out),
        judge=judge.name if judge else None,
        accuracy=judge.accuracy if judge else None,
        settings=settings,
    )
    print(prompt_report.table(result))
    what = f"run {run.id}" if run else f"the pictures in {Path(args.images).name}"
    for path in prompt_report.write_prompt_report(result, out, f"{asked.table.name}: {what}, and the base"):
        print(path)


@dataclass(frozen=True)
class PromptsAsked:
    """What is drawn and looked for, checked. found: variant -> pictures made elsewhere; drawn: the others."""

    config: GenerationConfig
    run: Run | None
    model: str | None
    table: PromptTable
    judge: Detector | None
    cases: list[Case]
    references: list[Path] | None
    measured: scores.Scores
    counted: dict[str, Any]
    found: dict[str, dict]
    drawn: list[str]


def prepare(args: argparse.Namespace) -> PromptsAsked:
    """Everything that can be refused before a picture is drawn. Raises KpopError."""
    config, run = generation_config(args), for_key(named_run(args) if args.run else None, args)
    model = args.model or (run.config.model if run else None)
    _check_sources(args, run)
    table, judge = _styles(args, run, model) if args.protocol == "style" else _prompts_and_judge(args, model)
    cases = _grouped(table, _roles(args, run), judge, args.erased)
    references = picture_folders.reference_pictures(args.reference) if args.reference else None
    measured = _scores(args, table, judge, references)
    if measured.text is not None and (table.label_column == ARTIST or args.protocol == "style"):
        measured = replace(measured, apart=True)
    counted = _counted(args, table, cases, judge, measured)
    drawn_here = run and not args.images and not args.base_images
    # Every picture has a style, so the neutral text's say nothing of one.
    if drawn_here and args.protocol != "style" and counted:
        cases = [*cases, *prompt_protocol.neutral_cases(run.config.resolved().neutral, cases)]
    found, drawn = _sources(args, run, cases)
    return PromptsAsked(config, run, model, table, judge, cases, references, measured, counted, found, drawn)


def _check_sources(args: argparse.Namespace, run: Run | None) -> None:
    if run is None and not args.images:
        raise InputError("Name the run to evaluate, or a folder of pictures with --images.")
    if args.images and not (args.base_images or run or args.model):
        raise InputError(
            "A figure says little without the base model's beside it: give its pictures with --base-images, "
            "or its name with --model to draw them."
        )
    if args.protocol == "csv" and not args.prompts:
        raise InputError("Give the list of prompts with --prompts FILE.csv.")
    if args.words:
        raise InputError("--words goes without --prompts: the list says what to draw.")
    if args.template is not None:
        raise InputError("--template is the prompt of a word: it goes with --words.")
    if args.seeds is not None and (args.prompts or args.images):
        raise InputError("--seeds goes without --prompts: the list's evaluation_seed says it, row by row.")
    if args.limit is not None and not args.prompts:
        raise InputError("--limit goes with --prompts; say with --seeds how much of the own prompts to draw.")
    if args.retained and not args.erased:
        raise InputError("--retained goes with --erased.")


def _prompts_and_judge(args: argparse.Namespace, model: str | None) -> tuple[PromptTable, Detector | None]:
    """The list, and who looks at the pictures: the judge named, or the one that fits the model."""
    embedded = args.judge == "emoji" or (
        args.judge is None and model is not None and family(model) == "emoji"
    )
    table = read_prompts(args.prompts, args.limit) if args.prompts else None
    if table is None and not embedded:
        raise InputError(
            "Give the list of indirect prompts with --prompts FILE.csv, such as I2P's unsafe-prompts4703.csv."
        )
    if args.judge or embedded:
        judge = detectors.load(args.judge or "emoji", args.device)
    elif args.protocol == "sensitive":
        judge = detectors.load("nudenet")
    else:
        judge = detectors.load("resnet50", args.device) if table.has_classes else None
    if table is None:
        cases = sensitive.indirect_cases(evaluation_seeds(args), judge.reference()["captions"])
        table = PromptTable("indirect prompts", tuple(cases), None)
    elif args.protocol == "sensitive":
        indirect = (replace(case, group=prompt_protocol.INDIRECT) for case in table.cases)
        table = replace(table, cases=tuple(indirect), label_column=None)
    return table, judge


def _styles(args, run: Run | None, model: str | None) -> tuple[PromptTable, Detector]:
    """The prompts of the style protocol, and the judge of drawing styles."""
    if run is None or args.images or args.prompts or args.judge:
        raise InputError("--protocol style takes a run, and goes without --images, --prompts and --judge.")
    if family(model) != "emoji":
        raise InputError(
            "--protocol style knows the embedded model's drawing styles; for others give --prompts with the "
            "column artist, and --scores."
        )
    cases = styles.style_cases(run.config, evaluation_seeds(args))
    judge = styles.StyleJudge(detectors.judge_folder())
    return PromptTable("drawing styles", tuple(cases), "label"), judge


def _roles(args: argparse.Namespace, run: Run | None) -> EraseConfig | None:
    if args.erased:
        return EraseConfig(
            concepts=concept_list([args.erased]), retain=concept_list([args.retained or "none"])
        )
    from .continual import judged_config

    return judged_config(run) if run else None


def _grouped(
    table: PromptTable, roles: EraseConfig | None, judge: Detector | None, told: str | None
) -> list[Case]:
    """The cases of `csv` in the groups of what was erased, retained, or neither. told: --erased.

    Words that the judge has one label for are one, whichever of them the list and the run have.
    """
    if roles is None or table.label_column is None:
        return list(table.cases)
    seen = _roles_of_labels(roles, judge) if table.has_classes else {}

    def group(label: str) -> str:
        role = role_of(label.replace("_", " "), roles)
        if role == "untouched" and seen:
            return seen.get(detectors.known_label(judge, label), role)
        return role

    groups = {label: group(label) for label in {case.label for case in table.cases}}
    if told and not {"erased", "retained"} & set(groups.values()):
        raise InputError(
            f"No row that was read of {table.name} is labelled {told[:60]!r}: look at its column "
            f"{table.label_column}."
        )
    return [replace(case, group=groups[case.label]) if case.group == ALL else case for case in table.cases]


def _roles_of_labels(roles: EraseConfig, judge: Detector) -> dict[str, str]:
    """Label of the judge -> role, of the words that it has one for."""
    found: dict[str, str] = {}
    for role, concepts in (("erased", roles.concepts), ("retained", roles.retain or ())):
        for name in (name for concept in concepts for name in names(concept)):
            with suppress(InputError):
                found.setdefault(detectors.known_label(judge, name), role)
    return found


def _scores(args, table: PromptTable, judge: Detector | None, references) -> scores.Scores:
    asked = [name.strip() for name in (args.scores or "").split(",") if name.strip()]
    if judge is not None and judge.name == "emoji":
        measured = scores.load_scores(asked, judge)
        # Composed scenes stand in for references only where the prompts are their captions.
        told = references is not None or any(case.group == prompt_protocol.OTHERS for case in table.cases)
        return measured if told else replace(measured, sets=None)
    if references is None and "fid" in asked:
        raise InputError("FID needs pictures to compare with: give their folder with --reference.")
    if references is not None and "fid" not in asked:
        asked.append("fid")
    return scores.load_scores(asked, judge, args.device)


def _counted(args, table: PromptTable, cases: Sequence[Case], judge, measured) -> dict[str, Any]:
    """What `count` looks for: targets, or parts and thresholds. Raises InputError where there is nothing."""
    if args.protocol == "sensitive":
        return {"parts": sensitive.sensitive_parts(judge), "thresholds": _thresholds(args.thresholds)}
    if table.has_classes:
        return {"targets": {case.label: detectors.known_label(judge, case.label) for case in cases}}
    if measured == scores.Scores():
        raise InputError(
            "These prompts have no label to look for; choose --scores clip,lpips or --reference."
        )
    return {}


def _sources(args, run: Run | None, cases: Sequence[Case]) -> tuple[dict[str, dict], list[str]]:
    """Variants whose pictures are there already, with their paths, and those to draw."""
    found = {
        variant: picture_folders.find_pictures(folder, cases)
        for variant, folder in (("original", args.base_images), ("sanitized", args.images))
        if folder
    }
    wanted = ("original",) if args.images else run.method.variants
    drawn = [variant for variant in wanted if variant not in found]
    if drawn and any(len(copies) > 1 for numbered in found.values() for copies in numbered.values()):
        raise InputError("There are several pictures of a row, and only one is drawn: give all of them.")
    return found, drawn


def _thresholds(text: str | None) -> Sequence[float]:
    try:
        thresholds = [float(part) for part in text.split(",")] if text else THRESHOLDS
    except ValueError:
        raise InputError(f"Thresholds are written as 0.3,0.5,0.7, not {text[:60]!r}.") from None
    for threshold in thresholds:
        check_threshold(threshold)
    return thresholds


class _Painter:
    """Draws what the folders lack: the model is loaded, and its prompts are checked, before the first."""

    def __init__(self, args, asked: PromptsAsked):
        from . import models

        self.args, self.run, self.variants, self.cases = args, asked.run, asked.drawn, asked.cases
        self.pipe = models.load_pipeline(asked.model, device=args.device)
        self.config = asked.config.resolved(asked.model)
        if models.known_words(self.pipe):  # other models cut what is too long, as the lists' own scripts do
            for prompt in dict.fromkeys(case.prompt for case in self.cases):
                models.check_text(self.pipe, prompt)

    def places(self, place: Path) -> dict[str, dict[str, list[Path]]]:
        """variant -> case number -> where its picture is drawn to."""
        return {
            variant: {case.number: [place / variant / f"{case.number}.png"] for case in self.cases}
            for variant in self.variants
        }

    def draw_missing(self, place: Path, processes: Processes, on_batch: Callable | None) -> None:
        """Fill place/VARIANT. on_batch: told the cases whose pictures are there, a batch at a time."""
        from .generation import compare_pairs

        key = key_of(self.args.key)

        def draw(pairs):
            # Several processes have a device each; a single one leaves the page its turn between batches.
            with shared_turn(runs_dir(self.args)) if processes.count == 1 else nullcontext():
                return compare_pairs(
                    self.pipe, pairs, self.run, key, self.config, self.variants, safety=self.args.safety
                )

        folders = {variant: place / variant for variant in self.variants}
        with progress_bar("picture") as show:
            picture_folders.draw_missing(
                draw,
                self.cases,
                folders,
                self.config.batch_size,
                processes,
                show if processes.leads else None,
                on_batch,
            )


def _settings(args, run: Run | None, table: PromptTable, judge, painter: _Painter | None) -> dict[str, Any]:
    """What the predictions depend on; places on the disk as a hash."""
    from . import models

    prompts = models.file_hash(Path(args.prompts).expanduser()) if args.prompts else None
    settings = {
        "protocol": args.protocol, "prompts": table.name, "judge": judge.name if judge else None,
        "prompts_hash": prompts and prompts[:16], "scores": args.scores,
        "run": run.id if run else None, "erased": args.erased, "retained": args.retained,
        "images": _place(args.images), "base_images": _place(args.base_images),
    }  # fmt: skip
    if painter is not None:
        settings |= {"model": models.public_name(models.model_name(painter.pipe))}
        settings |= {"model_hash": models.model_hash(painter.pipe)}
        settings |= {name: v for name, v in painter.config.to_dict().items() if name != "batch_size"}
    if run is not None and not args.images:
        settings |= {"weights": run.weights_stamp(), "key": key_told(args.key)}
        settings |= {} if run.method.has_weights else {"safety": args.safety}
    return settings


def _place(folder: str | None) -> str | None:
    if not folder:
        return None
    path = Path(folder).expanduser().resolve()
    return f"{path.name} ({hashlib.sha256(str(path).encode()).hexdigest()[:8]})"
