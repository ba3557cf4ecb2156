"""A cell: what one training (method, split, setting, seed) draws and what the judge saw, in one JSON file.

Tables and figures read cells only. A cell grows: what it holds is never drawn again, and it is written after
every few pictures, so that stopping loses nothing that was finished.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from .. import later_fields
from ..config import EraseConfig, GenerationConfig
from ..disk import disk_error, write_text
from ..errors import RunError
from ..runs import slug

SCHEMA = 1
BASE = "base"  # the method of the cell that draws with the untouched model
COLUMNS = ("labels", "scores", "style", "background", "distance", "text", "picture")
NOT_WHAT_IT_IS = ("checkpoint_every", "sample_every", "gradient_checkpointing", "schema")  # of a config
# Fields that came when cells were kept: a cell tells them where they say something new.
LATER = ("decoy_share", "kept_key_share", "near_share", "pair_share", "anchors")


@dataclass(frozen=True)
class Ask:
    """Pictures of one prompt that a table needs, and what it looks for in them.

    group: erased, retained, untouched or neutral. target: the word or style looked for. variant: original,
    sanitized, recovered, or one of controls.CONTROLS. key_of: the concept whose key is seen; None for none.
    kind: name, phrasing, synonym, pair, style, indirect, step. other, background: what else the prompt tells.
    looks: columns beside "labels" that the table reads. step: of the training; None: at its end.
    """

    prompt: str
    target: str
    group: str
    variant: str = "sanitized"
    key_of: str | None = None
    kind: str = "name"
    other: str = ""
    background: str = ""
    looks: tuple[str, ...] = ()
    step: int | None = None

    @property
    def place(self) -> tuple[str, str, str, int]:
        """Where its pictures stand in a cell."""
        return (self.variant, self.prompt, self.key_of or "", self.step or 0)


@dataclass(frozen=True)
class CellSpec:
    """What a cell is of. config: resolved; None for the untouched model. sampling: resolved.

    steps: training steps at which pictures are drawn too (Fig. 4).
    """

    method: str
    split: str
    setting: str
    seed: int
    model: str
    model_hash: str
    judge: str
    sampling: GenerationConfig
    config: EraseConfig | None = None
    steps: tuple[int, ...] = ()

    def settings(self) -> dict[str, Any]:
        """All that its predictions depend on, as plain JSON values without a path."""
        sampling = {k: v for k, v in self.sampling.to_dict().items() if k != "batch_size"}
        config = None
        if self.config is not None:
            config = {k: v for k, v in self.config.to_dict().items() if k not in NOT_WHAT_IT_IS}
            config["model"] = public_model(self.model)
            told = {name: later_fields.LATER[name] for name in LATER}
            told["erase_on"] = later_fields.erased_on(self.config.method)
            config = {k: v for k, v in config.items() if k not in told or v != told[k]}
        return {
            "model_hash": self.model_hash, "judge": self.judge, "sampling": sampling, "config": config,
            "steps": list(self.steps),
        }  # fmt: skip

    @cached_property
    def name(self) -> str:
        """The file's name without its ending: readable, and ending in a digest of the settings."""
        told = json.dumps(self.settings(), sort_keys=True)
        digest = hashlib.sha256(told.encode()).hexdigest()[:10]
        readable = (self.method.replace("*", " retain"), self.split, self.setting.replace(".", "p"))
        return "_".join([*map(slug, readable), f"seed{self.seed}", digest])


@dataclass
class Cell:
    """The contents of a cell's file.

    about: method, split, setting, seed, judge's accuracy, versions of the code that made it, seconds; and why
    a training ran away ("failed"). groups: place -> column -> a list with an entry a seed ("seeds" holds
    these). history: of the training, a row a measured step.
    """

    spec: CellSpec
    about: dict[str, Any] = field(default_factory=dict)
    groups: dict[tuple, dict[str, list]] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)

    def column(self, ask: Ask, seeds: Sequence[int], name: str = "labels") -> list | None:
        """One entry a seed, or None where a picture is missing."""
        group = self.groups.get(ask.place)
        if group is None or name not in group:
            return None
        held = dict(zip(group["seeds"], group[name], strict=True))
        found = [held.get(seed) for seed in seeds]
        return None if any(entry is None for entry in found) else found

    def missing(self, ask: Ask, seeds: Sequence[int]) -> list[int]:
        """Seeds of which a column that the ask looks at is not there."""
        wanted = ("labels", *ask.looks)
        return [seed for seed in seeds if any(self.column(ask, [seed], name) is None for name in wanted)]

    def add(self, ask: Ask, seed: int, values: dict[str, Any]) -> None:
        """Put one picture's entries in; what was there of this seed is replaced."""
        group = self.groups.setdefault(ask.place, {"seeds": []})
        if seed not in group["seeds"]:
            group["seeds"].append(seed)
            for name in group.keys() - {"seeds"}:
                group[name].append(None)
        at = group["seeds"].index(seed)
        for name, value in values.items():
            group.setdefault(name, [None] * len(group["seeds"]))[at] = value


def public_model(model: str) -> str:
    """What a cell calls a model: its name, without anything of a path."""
    return Path(model).name if Path(model).is_dir() else model


class Store:
    """A folder of cells. Reading never fails on a damaged file: such a cell counts as not there."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._read: dict[str, Cell] = {}

    def path(self, spec: CellSpec) -> Path:
        return self.folder / f"{spec.name}.json"

    def load(self, spec: CellSpec, anew: bool = False) -> Cell:
        """The cell as it is on disk, empty where there is none. anew: not as it was when last looked at."""
        if anew or spec.name not in self._read:
            self._read[spec.name] = _from_text(spec, self.path(spec)) or Cell(spec)
        return self._read[spec.name]

    def save(self, cell: Cell) -> None:
        """Write it, whole or not at all. Raises RunError."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, self.folder) from error
        write_text(self.path(cell.spec), _to_text(cell))
        self._read[cell.spec.name] = cell


def _to_text(cell: Cell) -> str:
    """JSON with a line a group, so that a change of one group is a change of one line."""
    head = {"schema": SCHEMA, **cell.about, "settings": cell.spec.settings()}
    lines = [f'"{name}": {json.dumps(value, ensure_ascii=False)}' for name, value in head.items()]
    lines.append(f'"history": {_rows(cell.history)}')
    names = ("variant", "prompt", "key_of", "step")
    groups = [dict(zip(names, place, strict=True)) | group for place, group in cell.groups.items()]
    lines.append(f'"pictures": {_rows(groups)}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _rows(values: list[dict]) -> str:
    told = ",\n  ".join(json.dumps(value, ensure_ascii=False, separators=(",", ":")) for value in values)
    return f"[\n  {told}\n]" if values else "[]"


def _from_text(spec: CellSpec, path: Path) -> Cell | None:
    try:
        found = json.loads(path.read_text("utf-8"))
        groups = {}
        for row in found.pop("pictures"):
            place = tuple(row.pop(name) for name in ("variant", "prompt", "key_of", "step"))
            if any(len(row[name]) != len(row["seeds"]) for name in row):
                return None
            groups[place] = row
        same = found.pop("schema") == SCHEMA and found.pop("settings") == json.loads(
            json.dumps(spec.settings())
        )
        history = found.pop("history")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return Cell(spec, found, groups, history) if same else None


@cache
def code_version() -> str:
    """The package's version and a digest of the sources that make a cell."""
    from .. import __version__

    folder = Path(__file__).resolve().parent.parent
    parts = [*folder.glob("*.py"), *folder.glob("methods/*.py")]
    parts += [folder / "evaluation" / f"{name}.py" for name in ("cell_maker", "controls", "detectors")]
    total = hashlib.sha256()
    try:
        for path in sorted(parts):
            total.update(path.read_bytes())
    except OSError as error:
        raise RunError(f"The program's own files cannot be read: {error.strerror or error}.") from error
    return f"{__version__}+{total.hexdigest()[:10]}"
