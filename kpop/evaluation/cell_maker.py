"""Fills a cell: trains its run, or goes on with it, then draws and judges the pictures it lacks."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from .. import models
from ..disk import disk_error, locked
from ..drawing import Row, draw
from ..health import Diverged
from ..hidden_prompt import HiddenPrompt
from ..jobs import reconcile
from ..kept import keep, opened
from ..method_table import METHODS
from ..runs import Run, create_run, list_runs
from ..training import train
from ..turns import device_lock
from ..weights import WeightDelta
from .cells import Ask, Cell, CellSpec, Store, code_version
from .controls import ON_BASE, Keys
from .scores import Scores, load_scores

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

    from .detectors import Detector

DEPTH = 5  # labels kept of a picture
SIDE = 96  # pixels of a kept picture's longer side, at most
BATCHES = 4  # drawn between two writes of the cell
MOST_DRAWN = 64  # pictures between two writes, where one batch is not more
MEASURED = {"distance": ("lpips",), "text": ("clip",)}  # column -> score, on other models than the embedded
HISTORY = 30  # rows kept of a training
Wanted = Sequence[tuple[Ask, Sequence[int]]]
Tell = Callable[[str, int, int], None]  # what is done, how far, of how much


@dataclass
class Maker:
    """What all cells are made with. judges: name -> who looks, each loaded once.

    work: folder of the runs, which hold weights and keys.
    takes_turns: whether drawings wait for others that draw in the same folder.
    """

    pipe: StableDiffusionPipeline
    judges: Callable[[str], Detector]
    store: Store
    work: Path
    device: str = "auto"
    takes_turns: bool = True
    tell: Tell = field(default=lambda what, done, of: None)
    measures: dict[tuple[str, str], Scores] = field(default_factory=dict, repr=False)  # loaded once

    def make(self, spec: CellSpec, wanted: Wanted) -> Cell:
        """Draw what the cell lacks of `wanted` and write it as it grows; returns it.

        A training that runs away is a result too: the cell says so in about["failed"] and has no pictures.
        Raises InputError, ModelError, RunError, KeyboardInterrupt; the cell keeps what was finished.
        """
        folder = self.work / spec.name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, folder) from error
        with locked(folder / ".lock"):
            cell = self.store.load(spec, anew=True)
            if not self._left(cell, wanted) or "failed" in cell.about:
                return cell
            cell.about |= {
                "method": spec.method, "split": spec.split, "setting": spec.setting, "seed": spec.seed,
                "judge_accuracy": self.judges(spec.judge).accuracy,
                "code": list(dict.fromkeys([*cell.about.get("code", ()), code_version()])),
            }  # fmt: skip
            if spec.config is None:
                self._draw(cell, wanted, None, None)
                return cell
            try:
                run = self._trained(cell, wanted, folder)
            except Diverged as error:
                cell.about["failed"] = str(error)
                self.store.save(cell)
                return cell
            delta = self._delta(run)
            rest = [(ask, seeds) for ask, seeds in wanted if ask.step is None]
            self._draw(cell, rest, delta, Keys(self.pipe, run, delta, self._between(spec)))
            return cell

    def _left(self, cell: Cell, wanted: Wanted) -> list[tuple[Ask, int]]:
        """(ask, seed) that are missing, once each, an ask looking for all that asks of its place look for."""
        looks: dict[tuple, dict[str, None]] = {}
        for ask, seeds in wanted:
            for seed in cell.missing(ask, seeds):
                looks.setdefault((ask.place, seed), {}).update(dict.fromkeys(ask.looks))
        found = {}
        for ask, seeds in wanted:
            for seed in seeds:
                if (ask.place, seed) in looks:
                    more = tuple(looks[ask.place, seed])
                    found[ask.place, seed] = (replace(ask, looks=more), seed)
        return list(found.values())

    # Training

    def run_of(self, spec: CellSpec) -> Run:
        """The finished run of a cell, trained if its folder is gone. Raises as `make` does, and Diverged."""
        folder = self.work / spec.name
        with locked(folder / ".lock"):
            return self._trained(self.store.load(spec), (), folder)

    def _trained(self, cell: Cell, wanted: Wanted, folder: Path) -> Run:
        spec, cfg = cell.spec, cell.spec.config
        pauses = sorted({ask.step for ask, _ in self._left(cell, wanted) if ask.step})
        run = self._found(folder, cfg, pauses)

        def on_step(event) -> None:
            self.tell(f"training {spec.method}, {spec.split}, {spec.setting}", event.step, event.steps)
            if event.step in pauses and event.step < event.steps:
                run.request_stop()

        trained = False
        while True:
            status = run.status
            if status.step in pauses and status.state in ("stopped", "done"):
                now = [(ask, seeds) for ask, seeds in wanted if ask.step == status.step]
                delta = self._delta(run)
                self._draw(cell, now, delta, Keys(self.pipe, run, delta))
            if status.state == "done":
                break
            if trained and status.step not in pauses:
                raise KeyboardInterrupt  # somebody asked this run to stop
            began, trained = time.perf_counter(), True
            self.tell(f"trajectories for {spec.method}, {spec.split}", 0, cfg.steps)
            train(cfg, run=run, pipe=self.pipe, on_step=on_step, device=self.device)
            _count_seconds(cell, "training_seconds", time.perf_counter() - began)
        if any(ask.step for ask, _ in self._left(cell, wanted)):
            return self._trained(cell, wanted, folder)  # broken off at such a step: from the start
        if not cell.history and METHODS[cfg.method].has_key:
            cell.history = _thinned(run.metrics(None))
        self.store.save(cell)
        return run

    def _found(self, folder: Path, cfg, pauses: Sequence[int]) -> Run:
        """The newest run of this cell that can still be used, or a new one."""
        reconcile(folder)
        for run in list_runs(folder):
            if run.path.parent != folder.resolve() or run.config_damage or run.config.resolved() != cfg:
                continue
            status = run.status
            if pauses and status.step > pauses[0]:
                continue  # it has gone past a step at which pictures are wanted
            if run.has_result if status.state == "done" else status.state in ("stopped", "interrupted"):
                return run
        return create_run(cfg, folder, status="starting", device=self.device)

    def _delta(self, run: Run) -> WeightDelta:
        unet = self.pipe.unet
        return WeightDelta.load(run.weights_path).to(unet.device, unet.dtype)

    def _between(self, spec: CellSpec) -> Callable[[], None]:
        steps = iter(range(1, 10**9))
        return lambda: self.tell(f"forging keys, {spec.split}", next(steps), 0)

    # Drawing

    def _draw(self, cell: Cell, wanted: Wanted, delta: WeightDelta | None, keys: Keys | None) -> None:
        left = self._left(cell, wanted)
        # Pictures of one model and one key lie together, so that batches are full.
        left.sort(key=lambda item: (item[0].variant, item[0].key_of or ""))
        batch = max(1, cell.spec.sampling.batch_size)
        size = max(batch, min(batch * BATCHES, MOST_DRAWN))
        words = f"drawing {cell.spec.method}, {cell.spec.split}, {cell.spec.setting}"
        began, start = time.perf_counter(), 0
        while start < len(left):
            variant = left[start][0].variant
            part = [item for item in left[start : start + size] if item[0].variant == variant]
            self.tell(words, start, len(left))
            on_base = variant in ON_BASE
            rows = [self._row(ask, seed, keys) for ask, seed in part]
            images = self._pictures(rows, None if on_base else delta, cell.spec)
            for (ask, seed), values in zip(part, self._judged(part, images, cell.spec), strict=True):
                cell.add(ask, seed, values)
            start += len(part)
            _count_seconds(cell, "drawing_seconds", time.perf_counter() - began)
            began = time.perf_counter()
            self.store.save(cell)
        self.tell(words, len(left), len(left))

    def _row(self, ask: Ask, seed: int, keys: Keys | None) -> Row:
        key: HiddenPrompt | None = keys.of(ask) if keys is not None else None
        return Row(ask.prompt, seed, ask.variant, key)

    def _pictures(self, rows: list[Row], delta: WeightDelta | None, spec: CellSpec) -> list[Image.Image]:
        for row in rows:
            models.check_text(self.pipe, row.prompt)
        with device_lock(self.work) if self.takes_turns else nullcontext():
            images = draw(self.pipe, rows, delta, None, spec.sampling, None, None)
        for row, image in zip(rows, images, strict=True):
            if row.variant == "original":
                keep(image, self._original_path(row.prompt, row.seed, spec))
        return images

    def _judged(self, part, images: list[Image.Image], spec: CellSpec) -> Iterable[dict[str, Any]]:
        """Per picture the columns that its ask looks at."""
        looks = {name for ask, _ in part for name in ask.looks}
        judge = self.judges(spec.judge)
        columns: dict[str, Sequence] = {}
        if judge.name == "nudenet":  # every part, and one seen twice is there twice
            parts = [found or [("none", 0.0)] for found in judge.detections(images)]
            columns["labels"] = [[label for label, _ in found] for found in parts]
            columns["scores"] = [[round(float(score), 3) for _, score in found] for found in parts]
        else:
            columns["labels"] = judge.top_k(images, DEPTH)
        if "scores" in looks and "scores" not in columns:
            found = [dict(one) for one in judge.detections(images)]
            columns["scores"] = [
                [round(one.get(label, 0.0), 3) for label in labels]
                for one, labels in zip(found, columns["labels"], strict=True)
            ]
        if looks & {"style", "background"}:
            columns["style"], columns["background"] = judge.style_and_background(images)
        if "distance" in looks:
            first = self._originals([(ask.prompt, seed) for ask, seed in part], spec)
            _, distance = self._measure("distance", judge).base
            columns["distance"] = [round(value, 4) for value in distance(images, first)]
        if "text" in looks:
            _, score = self._measure("text", judge).text
            columns["text"] = [round(value, 4) for value in score(images, [ask.prompt for ask, _ in part])]
        if "picture" in looks:
            columns["picture"] = [packed(image) for image in images]
        for i, (ask, _) in enumerate(part):
            yield {name: columns[name][i] for name in ("labels", *ask.looks)}

    def _measure(self, column: str, judge: Detector) -> Scores:
        if (column, judge.name) not in self.measures:
            self.measures[column, judge.name] = measure(column, judge, self.device)
        return self.measures[column, judge.name]

    def _originals(self, asked: list[tuple[str, int]], spec: CellSpec) -> list[Image.Image]:
        """The untouched model's pictures, kept on disk: every method is held against the same ones."""
        paths = [self._original_path(prompt, seed, spec) for prompt, seed in asked]
        found = [opened(path) for path in paths]
        missing = [i for i, image in enumerate(found) if image is None]
        rows = [Row(*asked[i], "original", None) for i in missing]
        for i, image in zip(missing, self._pictures(rows, None, spec) if rows else (), strict=True):
            found[i] = image
        return found

    def _original_path(self, prompt: str, seed: int, spec: CellSpec) -> Path:
        told = json.dumps([spec.settings() | {"config": None, "steps": []}, prompt, seed], sort_keys=True)
        return self.work / "originals" / f"{hashlib.sha256(told.encode()).hexdigest()[:24]}.png"


def measure(column: str, judge: Detector, device: str) -> Scores:
    """What fills a column of numbers: LPIPS and the CLIP score, or what the embedded judge has for them.

    Raises ModelError where the weights are missing.
    """
    return load_scores(() if judge.name == "emoji" else MEASURED[column], judge, device)


def _count_seconds(cell: Cell, name: str, more: float) -> None:
    cell.about[name] = round(cell.about.get(name, 0) + more, 1)


def _thinned(rows: list[dict]) -> list[dict]:
    """At most HISTORY of the rows with cosines, the last among them; four digits."""
    rows = [row for row in rows if row.get("cosines")]
    every = max(1, -(-len(rows) // HISTORY))
    kept = rows[::every] if not rows or rows[-1] in rows[::every] else [*rows[::every], rows[-1]]
    return [
        {
            "step": row["step"],
            **{
                kind: {text: round(value, 4) for text, value in cosines.items()}
                for kind, cosines in row["cosines"].items()
            },
        }
        for row in kept
    ]


def packed(image: Image.Image) -> str:
    """A small WebP of the picture, as base64 text."""
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    small.save(data, "WEBP", quality=88, method=6)
    return base64.b64encode(data.getvalue()).decode()


def unpacked(text: str) -> Image.Image:
    """The picture of `packed`."""
    return Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")
