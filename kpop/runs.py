"""The run folder: made, read, listed and changed. It is the truth; every page and command only reads it.

<runs>/<id>/config.json  status.json  metrics.jsonl  log.txt  samples/  checkpoint/  weights.safetensors
            config.json  readable by the owner only, for its seed makes the key again
            trace.txt    tracebacks, which are shown on no page
            secret/      prompt tensors and their optimizer state, readable by the owner only
            evaluations/ a folder an evaluation in the background: see evaluation_jobs.py
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from . import run_records
from .disk import brief, disk_error, file_stamp, hidden_folder, write_json
from .errors import InputError, KpopError, RunError
from .later_fields import as_it_was
from .method_table import METHODS, MethodFacts
from .run_status import RunStatus, change_status, host_name, process_fields, read_status

if TYPE_CHECKING:
    from .config import EraseConfig

SEED_BITS = 53  # of a seed that nobody named: what a browser holds exactly
ID = re.compile(r"[a-z0-9][a-z0-9-]{0,79}")
MADE_ID = re.compile(r"\d{8}-\d{6}-[a-z0-9-]+-[0-9a-f]{4}")
EXAMPLE = Path(__file__).resolve().parent.parent / "assets" / "example-run"


@dataclass(frozen=True)
class Run:
    """One run folder. Reading it never changes it; every property looks at the disk again except `config`.

    unlocked: files of secret/ by name that key_sealing.unlocked decrypted into memory; None: what is on disk.
    """

    path: Path
    unlocked: Mapping[str, bytes] | None = field(default=None, repr=False, compare=False)

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def is_example(self) -> bool:
        """Whether this is the run that ships with the app: it cannot be resumed, stopped or deleted."""
        return self.path == EXAMPLE

    @cached_property
    def _config(self) -> tuple[EraseConfig, str | None]:
        from .config import EraseConfig

        try:
            return _read_config(self.path / "config.json", file_stamp(self.path / "config.json")), None
        except FileNotFoundError:
            problem = "Its config.json is missing from the run folder: restore it or delete this run."
        except (OSError, ValueError, TypeError, RecursionError, KpopError) as error:
            problem = f"Its config.json cannot be read ({brief(error)}): restore it or delete this run."
        word = self.id.split("-")[2] if MADE_ID.fullmatch(self.id) else ""
        return EraseConfig(model="emoji", concepts=(word or "unknown",)), problem

    @property
    def config(self) -> EraseConfig:
        """The run's settings; a stand-in with the id's concept where config.json is damaged."""
        return self._config[0]

    @property
    def method(self) -> MethodFacts:
        """What made the run, and so which variants can be drawn of it."""
        return METHODS[self.config.method]

    @property
    def damage(self) -> str | None:
        """What is wrong with the folder's own files, in one sentence, or None."""
        return self._read_status()[1] or self.config_damage

    @property
    def config_damage(self) -> str | None:
        """Why config.json cannot be used, in one sentence, or None."""
        return self._config[1]

    @property
    def status(self) -> RunStatus:
        """The status now; a damaged folder reads as failed with a sentence in `error`."""
        status, damage = self._read_status()[0], self.damage
        return replace(status, state="failed", error=damage) if damage else status

    def _read_status(self) -> tuple[RunStatus, str | None]:
        status, problem = read_status(self.path)
        return status, problem and f"{problem}: resume this run or delete it."

    def update_status(self, **changes) -> RunStatus:
        """Change fields of status.json, atomically and under the run's lock; returns the new status.

        A change of `step`, or any change by the process that runs it, counts as a heartbeat. Raises RunError.
        """
        return change_status(self.path, None, changes)

    def transition(self, states: Sequence[str], **changes) -> bool:
        """Like update_status, only if the state is one of `states` at that moment, else nothing and False.

        Two servers on one folder use this so that only one of them starts a run.
        """
        return change_status(self.path, tuple(states), changes) is not None

    def claim(self, runner: str = "inline", state: str = "running") -> RunStatus:
        """Write this process into status.json as the one that runs it."""
        return self.update_status(state=state, runner=runner, error=None, **process_fields())

    @property
    def weights_path(self) -> Path:
        return self.path / "weights.safetensors"

    @property
    def has_result(self) -> bool:
        """Whether sanitized pictures can be drawn: there are weights, or the method trains none."""
        return self.weights_path.exists() if self.method.has_weights else self.status.state == "done"

    def weights_stamp(self) -> str:
        """Tells apart what it has learned before and after it was trained further. Raises InputError."""
        if not self.method.has_weights:
            return self.method.title
        try:
            with open(self.weights_path, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()[:16]
        except OSError:
            raise InputError(
                f"Run {self.id} has no weights yet. Wait until it is done, or stop and keep it."
            ) from None

    @property
    def checkpoint_dir(self) -> Path:
        return self.path / "checkpoint"

    @property
    def secret_dir(self) -> Path:
        """Prompt tensors and their optimizer state; made 0700."""
        return self.path / "secret"

    def key_path(self, concept: str | Sequence[str] | None = None) -> Path:
        """File of a concept's hidden prompt (any of its synonyms; None: of the only or shared one).

        Raises InputError when the run hides no such concept, RunError when its method leaves no key.
        """
        if not self.method.has_key:
            raise RunError(
                f"This run was made by {self.method.title}, which leaves no key; "
                "draw its original or sanitized pictures, or train a run with method kpop."
            )
        names = [(item,) if isinstance(item, str) else tuple(item) for item in self.config.concepts]
        if getattr(self.config, "prompt_sharing", None) == "shared":
            return self.secret_dir / "key-shared.safetensors"
        wanted = concept if concept is None or isinstance(concept, str) else tuple(concept)[0]
        for i, synonyms in enumerate(names):
            is_it = len(names) == 1 if wanted is None else wanted.strip().lower() in map(str.lower, synonyms)
            if is_it:
                return self.secret_dir / f"key-{i:02d}-{slug(synonyms[0])}.safetensors"
        hidden = ", ".join(synonyms[0] for synonyms in names)
        if wanted is None:
            raise InputError(f"Run {self.id} has several keys. Name one concept of: {hidden}.")
        raise InputError(f"Run {self.id} has no key for {wanted[:60]!r}. It hides: {hidden}.")

    def earlier_key_path(self, index: int, concept: str | Sequence[str]) -> Path:
        """Where this run keeps the key of a concept that the run it started from hides."""
        return self.secret_dir / f"earlier-{index:02d}-{slug(concept)}.safetensors"

    def earlier_key_paths(self) -> list[Path]:
        """The files of `earlier_key_path` that there are, in order."""
        if self.unlocked is not None:
            return sorted(self.secret_dir / name for name in self.unlocked if name.startswith("earlier-"))
        return sorted(self.secret_dir.glob("earlier-*.safetensors"))

    def checkpoint_states(self) -> list[dict]:
        """What stands in the checkpoint's state.json and in before.json, each with its `step`.

        The trainer writes state.json last, so a checkpoint that has one is whole. Raises RunError where there
        is one and none can be read: to start from step 0 then would lose what was learned, without a word.
        """
        found = run_records.read_states(self.checkpoint_dir)
        if not found and (self.checkpoint_dir / "state.json").exists():
            raise RunError(f"The checkpoint of run {self.id} is damaged (state.json). Start the run anew.")
        return found

    def checkpoint_step(self) -> int | None:
        """The step that checkpoint/state.json stands at, or None where there is no usable checkpoint."""
        found = run_records.read_states(self.checkpoint_dir)
        return found[0]["step"] if found else None

    @property
    def has_checkpoint(self) -> bool:
        return self.checkpoint_step() is not None

    def append_metrics(self, row: dict) -> None:
        """Add one line to metrics.jsonl. Raises RunError when the disk refuses."""
        run_records.append_metrics(self.path, row)

    def metrics(self, max_points: int | None = 500) -> list[dict]:
        """Rows of metrics.jsonl, thinned evenly to max_points; torn or foreign lines are left out."""
        return run_records.read_metrics(self.path, max_points)

    def truncate_metrics(self, step: int) -> None:
        """Drop rows after `step` (the checkpoint's) and torn lines, so that a resumed run repeats none."""
        run_records.truncate_metrics(self.path, step)

    def samples(self) -> list[tuple[int, dict[str, Path]]]:
        """(step, name -> PNG path) by rising step; names: original, sanitized, recovered, kept."""
        return run_records.find_samples(self.path)

    def log_tail(self, n: int = 20) -> str:
        """The last n lines of log.txt; of a progress bar only its newest state; "" where there is no log."""
        return run_records.log_tail(self.path, n)

    def request_stop(self) -> None:
        """Ask whoever trains this run to save and stop before its next step."""
        try:
            (self.path / "stop").touch()
        except OSError as error:
            raise disk_error(error, self.path) from error

    @property
    def stop_requested(self) -> bool:
        return (self.path / "stop").exists()

    def clear_stop(self) -> None:
        (self.path / "stop").unlink(missing_ok=True)


@lru_cache(maxsize=1024)
def _read_config(path: Path, stamp: tuple) -> EraseConfig:
    from .config import EraseConfig

    told = json.loads(path.read_text("utf-8"))
    return EraseConfig.from_dict(as_it_was(told) if isinstance(told, dict) else told)


def default_runs_dir() -> Path:
    """KPOP_RUNS, or a folder of the user's data."""
    import platformdirs

    chosen = os.environ.get("KPOP_RUNS")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_data_dir("kpop-studio")) / "runs"


def create_run(
    cfg: EraseConfig,
    runs_dir: str | Path | None = None,
    owner: str = "local",
    status: str = "queued",
    device: str = "auto",
    runner: str = "local",
) -> Run:
    """Make a run folder, whole or not at all. A status other than "queued" claims it for this process.

    Where cfg names no seed the run gets one. runner: which queue it waits in, "local" or "ray". Raises
    RunError when the runs folder cannot be written.
    """
    folder = Path(runs_dir) if runs_dir is not None else default_runs_dir()
    cfg = cfg.resolved() if hasattr(cfg, "resolved") else cfg
    if cfg.seed is None:
        cfg = replace(cfg, seed=secrets.randbits(SEED_BITS))
    first = cfg.concepts[0]
    now = time.time()
    state = RunStatus(state=status, owner=owner, steps=int(cfg.steps or 0), made=now, device=device)
    who = {"host": host_name(), "queued_at": now} if status == "queued" else process_fields()
    state = replace(state, **who, runner=runner if status == "queued" else "inline")
    with hidden_folder(folder) as made:
        (made / "secret").mkdir(mode=0o700)
        (made / "samples").mkdir()
        write_json(made / "config.json", cfg.to_dict(), 0o600)  # its seed makes the key again
        write_json(made / "status.json", asdict(state))
        (made / "log.txt").touch()
        while True:
            name = f"{datetime.fromtimestamp(now):%Y%m%d-%H%M%S}-{slug(first)}-{secrets.token_hex(2)}"
            if not (folder / name).exists():
                os.rename(made, folder / name)
                return Run((folder / name).resolve())


def with_seed_of(run: Run, cfg: EraseConfig) -> EraseConfig:
    """cfg with the run's seed, where it names none of its own."""
    return replace(cfg, seed=run.config.seed) if cfg.seed is None else cfg


def open_run(run: Run | str | Path, runs_dir: str | Path | None = None) -> Run:
    """A run by id (looked up in runs_dir, then the example) or by the path of its folder. Raises RunError."""
    if isinstance(run, Run):
        return run
    text = str(run)
    if isinstance(run, Path) or os.sep in text or text.startswith("."):
        path = Path(run).expanduser()
        if (path / "config.json").is_file() or (path / "status.json").is_file():
            return Run(path.resolve())
        raise RunError(f"{text[:200]} is not a run folder: it holds no config.json.")
    if not ID.fullmatch(text):
        raise RunError(f"{text[:60]!r} is not the id of a run. See `python -m kpop runs list`.")
    folder = Path(runs_dir) if runs_dir is not None else default_runs_dir()
    for path in (folder / text, EXAMPLE):
        if path.name == text and _is_run(path):
            return Run(path.resolve())
    raise RunError(f"There is no run {text!r} in {folder}. See `python -m kpop runs list`.")


def list_runs(runs_dir: str | Path | None = None) -> list[Run]:
    """Every run, newest first, the shipped example last; damaged ones are listed as failed. Never raises."""
    folder = Path(runs_dir) if runs_dir is not None else default_runs_dir()
    try:
        found = [Run(path.resolve()) for path in folder.iterdir() if _is_run(path)]
    except OSError:
        found = []
    found = [run for run in found if not run.is_example]
    found.sort(key=lambda run: (run._read_status()[0].made, run.id), reverse=True)
    return [*found, Run(EXAMPLE)] if _is_run(EXAMPLE) else found


def _is_run(path: Path) -> bool:
    if not ID.fullmatch(path.name) or not path.is_dir():
        return False
    files = (path / "config.json").is_file() or (path / "status.json").is_file()
    return files or bool(MADE_ID.fullmatch(path.name))


def slug(concept: str | Sequence[str]) -> str:
    """[a-z0-9-], at most 24 characters, of a concept's first name; "concept" where nothing is left of it."""
    name = concept if isinstance(concept, str) else tuple(concept)[0]
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain)[:24].strip("-") or "concept"
