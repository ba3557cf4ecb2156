"""What one running app holds: its runs folder, its model in memory, its judge, its drawn pictures."""

from __future__ import annotations

import math
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr
from gradio.context import LocalContext
from PIL import Image

from .. import forging_jobs, generation, jobs, models, presets, runs
from ..config import EraseConfig, is_style, names
from ..errors import InputError, KpopError, RunError
from ..evaluation import detectors
from ..exposure import Exposure
from ..first_pictures import cache_dir, first_picture, picture_path
from ..kept import keep
from ..limits import UNLIMITED, Limits
from ..run_status import ACTIVE
from ..throttle import Throttle
from ..visitors import HOST, LOCAL, NOBODY

if TYPE_CHECKING:
    from ..pace import Pace

LONGEST_WAIT = 600.0  # seconds
MOST_SHOWN = 64  # pieces of the page kept for the next who looks
QUICK_LATENT = 32  # a U-Net of at most this many latent pixels a side draws in a second or two on a CPU


@dataclass
class Studio:
    """State shared by all visitors of one app. Only the lock-guarded methods change it."""

    runs_dir: Path
    model: str = "emoji"
    device: str = "auto"
    exposure: Exposure = field(default_factory=Exposure)
    address: str | None = None  # where others reach the app, once it is known
    runner: str = "local"
    started: float = field(default_factory=time.time)  # an open page asks for all again after a restart
    _clicks: int = 0
    _first: threading.Condition = field(default_factory=threading.Condition, repr=False)
    _guard: threading.RLock = field(default_factory=threading.RLock, repr=False)
    _pipes: dict = field(default_factory=dict, repr=False)
    _judges: dict = field(default_factory=dict, repr=False)
    _pace: Pace | None = field(default=None, repr=False)
    _memory: dict = field(default_factory=dict, repr=False)
    _shown: OrderedDict = field(default_factory=OrderedDict, repr=False)
    _guesses: Throttle = field(default_factory=Throttle, repr=False)
    _scratch: tempfile.TemporaryDirectory | None = field(default=None, repr=False)

    @property
    def read_only(self) -> bool:
        """Whether runs are shown here and none is started or changed."""
        return self.exposure.read_only

    def pipe(self, model: str | None = None):
        """The pipeline of `model` (default: the app's); one is held at a time. Raises ModelError."""
        model = model or self.model
        with self._guard:
            if model not in self._pipes:
                self._pipes.clear()
                self._pipes[model] = models.load_pipeline(model, device=self.device)
            return self._pipes[model]

    def judge(self, model: str | None = None):
        """The judge that belongs to the model, or None where there is none."""
        model = model or self.model
        with self._guard:
            if model not in self._judges:
                try:
                    self._judges[model] = detectors.load(model) if model == "emoji" else None
                except KpopError:
                    self._judges[model] = None
            return self._judges[model]

    def named(self, images: Sequence[Image.Image], model: str | None = None) -> list[str]:
        """The judge's word for each picture; "" where there is no judge."""
        return detectors.first_words(self.judge(model), images)

    def verdicts(self, images: Sequence[Image.Image], config: EraseConfig) -> list[str]:
        """What the judge sees in each picture of a run, and how sure it is: "church 98 %"; where the run
        forgets a drawing style, "house 98 %, flat style"; "" without a judge.
        """
        judge = self.judge(config.model)
        if judge is None or not images:
            return [""] * len(images)
        words = detectors.first_words(judge, images)
        sure = judge.probabilities(images).max(axis=1)
        told = [
            f"{'nothing' if word == 'none' else word} {100 * share:.0f} %"
            for word, share in zip(words, sure, strict=True)
        ]
        if not any(map(is_style, (name for concept in config.concepts for name in names(concept)))):
            return told
        return [f"{one}, {style} style" for one, style in zip(told, judge.styles(images), strict=True)]

    def pace(self, measure: bool = False):
        """pace.Pace of the app's model on this machine; None until measured, or where that is slow."""
        if measure and self._pace is None and self.quick():
            from ..pace import measure_pace

            with self.turn(asked=False):
                self._pace = self._pace or measure_pace(self.pipe())
        return self._pace

    def memory(self, config: EraseConfig, trace: bool = False) -> int | None:
        """Bytes a training takes, model included; None until traced, which takes seconds, and where unknown.

        config: resolved. Runs of a kind differ in their bank alone, so one trace serves them all.
        """
        from ..continual import known_earlier
        from ..estimate import estimate_run, with_bank_of

        kind = replace(
            config, concepts=tuple(f"concept {i}" for i in range(len(config.concepts))),
            retain=("kept",) if config.retain else (), neutral="", templates=("{}",), anchors=(), steps=1,
            seed=0, learning_rate=0, prompt_learning_rate=0, sample_every=1, checkpoint_every=1, preset=None,
        )  # fmt: skip
        earlier = known_earlier(config, self.runs_dir)
        if trace and kind not in self._memory:
            with suppress(InputError):  # no steps, no estimate
                self._memory[kind] = estimate_run(kind, self.pipe(), earlier)
        found = self._memory.get(kind)
        return found and with_bank_of(config, found, self.pipe().unet, earlier).memory

    def once(self, key: tuple, make: Callable[[], str]) -> str:
        """What `make` answers, made once for all who look at the same; key: everything that it depends on."""
        with self._guard:
            if key in self._shown:
                self._shown.move_to_end(key)
                return self._shown[key]
        made = make()
        with self._guard:
            self._shown[key] = made
            while len(self._shown) > MOST_SHOWN:
                self._shown.popitem(last=False)
        return made

    def quick(self, model: str | None = None) -> bool:
        """Whether pictures may be drawn without being asked for."""
        pipe = self.pipe(model)
        return pipe.device.type == "cuda" or pipe.unet.config.sample_size <= QUICK_LATENT

    @contextmanager
    def turn(self, asked: bool = True) -> Iterator[None]:
        """The device for one piece of drawing; a training in the background pauses between two steps.

        asked: by a click, which goes before what the page draws by itself.
        """
        with self._first:
            if not asked:
                self._first.wait_for(lambda: self._clicks == 0, timeout=LONGEST_WAIT)
            self._clicks += asked
        try:
            with jobs.device_lock(self.runs_dir):
                yield
        finally:
            with self._first:
                self._clicks -= asked
                self._first.notify_all()

    def scratch(self) -> Path:
        """A folder for files on their way to a visitor; those older than an hour are cleared away."""
        with self._guard:
            if self._scratch is None:
                self._scratch = tempfile.TemporaryDirectory(prefix="kpop-studio-", ignore_cleanup_errors=True)
            folder = Path(self._scratch.name)
        for old in folder.iterdir():
            if time.time() - old.stat().st_mtime > 3600:
                shutil.rmtree(old, ignore_errors=True)
        return folder

    def run(self, run_id: str | None):
        """The run of that id, if whoever asks may see it. Raises RunError in words when there is none."""
        if not run_id or not isinstance(run_id, str):
            raise RunError("No run is chosen. Train one in step 2, or choose one at the top of the page.")
        found = None
        if runs.ID.fullmatch(run_id):  # an id, never a path
            with suppress(RunError):
                found = runs.open_run(run_id, self.runs_dir)
        if found is not None and self.may_see(found, self.asking()):
            return found
        whose = " of yours" if self.exposure.shared else ""
        raise RunError(
            f"There is no run {run_id[:60]!r}{whose}. Choose one from the list at the top of the page."
        )

    def all_runs(self) -> list:
        """Every run that can be read and that whoever asks may see, newest first, the example last."""
        who = self.asking()
        return [run for run in runs.list_runs(self.runs_dir) if self.may_see(run, who)]

    def asking(self) -> str:
        """Who is behind the event that is handled now; LOCAL outside of one, on a shared app NOBODY."""
        who = visitor(LocalContext.request.get(None))
        return NOBODY if who == LOCAL and self.exposure.shared else who

    def may_see(self, run, who: str) -> bool:
        """Whether a visitor may look at a run and draw with its key."""
        if not self.exposure.shared or self.read_only or run.is_example or who == HOST:
            return True
        status = run.status
        return status.public or (who != NOBODY and status.owner == who)

    def may_change(self, run, who: str) -> bool:
        """Whether a visitor may stop, resume, delete, release or go on from a run."""
        if self.read_only or run.is_example:
            return False
        return not self.exposure.shared or (who != NOBODY and who in (run.status.owner, HOST))

    @contextmanager
    def guess(self, run_id: str) -> Iterator[None]:
        """Around the use of a run's passphrase: on a shared app wrong ones are slowed down as at the login.

        Raises RunError before the body where there were too many.
        """
        if not self.exposure.shared:
            yield
            return
        address = getattr(getattr(LocalContext.request.get(None), "client", None), "host", "")
        wait = math.ceil(self._guesses.begin(address, run_id))
        if wait:
            raise RunError(f"Too many wrong passphrases from this address. Try again in {wait} s.")
        yield
        self._guesses.passed(address, run_id)

    def may_train_again(self, run) -> bool:
        """Whether whoever asks may know all that makes the run, its key too, a second time: the seed."""
        return run.is_example or not run.method.has_key or self.may_change(run, self.asking())

    def limits(self) -> Limits:
        """What whoever asks may ask for."""
        return UNLIMITED if self.asking() == HOST else self.exposure.limits

    def submit(self, config: EraseConfig, owner: str):
        """Queue a run of a visitor. Raises KpopError, beyond their limits too."""
        if self.read_only:
            raise RunError("This page is read-only: runs cannot be started here.")
        self.limits().check_run(config.resolved())
        with self._guard:  # between counting and queueing nobody else comes in
            mine, kept, everybody = self._counted(owner)
            self.limits().check_queue(mine, kept, everybody=everybody)
            return jobs.submit(config, self.runs_dir, owner, self.device, self.runner)

    def resume(self, run) -> str:
        """jobs.resume within the limits of the run's owner."""
        with self._guard:
            mine, kept, everybody = self._counted(run.status.owner)
            self.limits().check_queue(mine, kept, new=False, everybody=everybody)
            return jobs.resume(run, runner=self.runner)

    def _counted(self, owner: str) -> tuple[int, int, int]:
        """A visitor's runs that wait or train, all their runs, and everybody's that wait or train."""
        every = [run.status for run in runs.list_runs(self.runs_dir)]
        active = [status.owner for status in every if status.state in ACTIVE]
        return active.count(owner), sum(status.owner == owner for status in every), len(active)

    def forge(self, run) -> None:
        """forging_jobs.start within the limits of the run's owner, who may have it beside no run too many."""
        with self._guard:
            mine = [one for one in runs.list_runs(self.runs_dir) if one.status.owner == run.status.owner]
            active = sum(one.status.state in ACTIVE or forging_jobs.is_forging(one) for one in mine)
            self.limits().check_queue(active, len(mine), new=False)
            forging_jobs.start(run, run.status.owner, self.device)

    def allowed_model(self, model: str | None) -> str:
        """A model this app may load for a visitor: one of the table or the app's own."""
        model = model or self.model
        if model != self.model and model not in list(models.MODELS):  # JSON may be no key of a dict
            raise InputError(f"Unknown model {str(model)[:80]!r}. Choose one of: {', '.join(models.MODELS)}.")
        return model

    def offered_presets(self) -> list:
        """Presets made for the app's model or its kind."""
        kind = models.family(self.model)
        return [p for p in presets.list_presets() if not p.model or models.family(p.model) == kind]

    def drawn(self, prompt: str, seeds: Sequence[int]) -> list[Image.Image | None]:
        """The base model's pictures of a prompt, from the cache or shipped; None where there is none yet."""
        digest = models.model_hash(self.pipe())
        return [first_picture(cache_dir() / "drawings", digest, prompt, seed) for seed in seeds]

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], asked: bool = False) -> None:
        """Put the base model's pictures of the prompts into the cache, in one batch, where missing."""
        missing = [
            (prompt, seed) for prompt in prompts for seed in seeds if self.drawn(prompt, [seed])[0] is None
        ]
        left = list(dict.fromkeys(prompt for prompt, _ in missing))
        if not left:
            return
        with self.turn(asked):
            images = generation.generate(self.pipe(), left, list(seeds), variant="original")
        for (prompt, seed), image in zip(((p, s) for p in left for s in seeds), images, strict=True):
            keep(image, picture_path(cache_dir() / "drawings", models.model_hash(self.pipe()), prompt, seed))


def visitor(request: gr.Request | None) -> str:
    """Who asks, as the gate found out: LOCAL on an app that only this machine reaches, HOST, or an id."""
    return getattr(getattr(request, "state", None), "visitor", LOCAL)


def seeds_from(text: str | Sequence[int] | int, most: int = 8) -> list[int]:
    """Seeds from "0-3", "1, 5, 9" or a list. Raises InputError."""
    hint = f'Write seeds as "0-3" or "1, 5, 9": whole numbers from 0 to 4294967295, at most {most}.'
    if isinstance(text, bool) or text is None:
        raise InputError(hint)
    if isinstance(text, int):
        text = [text]
    try:
        if isinstance(text, str):
            found: list[int] = []
            for part in text[:200].replace(";", ",").split(","):
                first, dash, last = part.strip().partition("-")
                start, end = int(first), int(last) if dash else int(first)
                if end - start >= most:
                    raise InputError(f"At most {most} seeds at a time. {hint}")
                found += range(start, end + 1)
        else:
            found = [int(value) for value in list(text)[: most + 1]]
    except (TypeError, ValueError):
        raise InputError(hint) from None
    seeds = list(dict.fromkeys(found))
    if not seeds or any(not 0 <= seed < 2**32 for seed in seeds):
        raise InputError(hint)
    if len(seeds) > most:
        raise InputError(f"At most {most} seeds at a time. {hint}")
    return seeds
