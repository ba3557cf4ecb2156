"""Which cells a table needs at a scale, and about how long the missing ones take. Nothing is drawn here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import EraseConfig, GenerationConfig
from ..errors import InputError
from ..method_table import METHODS
from ..model_table import family, ignored
from .cells import BASE, Ask, CellSpec, Store
from .splits import Split, object_split

PICTURE_SEED = 1000  # of the first reported picture
TUNING_PICTURE_SEED = 600  # of the first picture of a sweep: none of the reported ones
TUNING_SEED = 100  # of a sweep's trainings; reported ones have 0, 1, 2
GRID = 4  # pictures a prompt that a figure shows
QUICK_STEPS = 340
ROW_SECONDS = 0.009  # a row through the embedded model's U-Net on two CPU cores: 0.45 s / (25 steps * 2 rows)
BACKWARD = 1.2  # forwards that a backward costs: 340 steps with bank take 3 minutes
A_BLOCK = 0.12  # of a step's time, that every further block of 77 tokens of p costs
# Rows of a removal step in units of the batch size: (forward only, forward and backward), without those of
# L1 and the rows to retain. KPOP's is L2; its transfer step comes on top.
_STEP_ROWS = {"kpop": (0, 1), "esd": (0, 0), "ca": (1, 0)}


@dataclass(frozen=True)
class Scale:
    """How much of everything. untouched: words of neither list; styles: that are each erased once."""

    name: str
    splits: tuple[int, ...]
    seeds: tuple[int, ...]
    pictures: int
    untouched: int
    styles: tuple[str, ...]
    style_objects: int
    steps: int | None  # of a training; None: the preset's

    def __str__(self) -> str:
        def several(name: str, values: Sequence[int]) -> str:
            return f"{name}{'s' if len(values) > 1 else ''} {', '.join(map(str, values))}"

        steps = "" if self.steps in (None, QUICK_STEPS) else f", {self.steps} steps a training"
        return (
            f"{several('split', self.splits)}, {several('training seed', self.seeds)}, "
            f"{self.pictures} pictures a prompt{steps}"
        )


SCALES: Mapping[str, Scale] = {
    "quick": Scale("quick", (1,), (0,), 10, 3, ("ink", "flat"), 2, QUICK_STEPS),
    "full": Scale(
        "full", (1, 2, 3, 4), (0, 1, 2), 50, 10, ("noto", "twemoji", "fluent", "flat", "blob", "ink"), 4, None
    ),
}

# The rows of the tables. "*": with the list to retain (the paper's star). Without it nothing is retained, the
# neutral text neither, as the methods were published; KPOP's losses are those of Eq. 5-7 alone.
_ALONE = {"retain": (), "retain_weight": 0.0}
ROWS: Mapping[str, dict[str, Any]] = {
    "CA": {"method": "ca", **_ALONE, "retain_neutral": False},
    "ESD": {"method": "esd", **_ALONE, "retain_neutral": False},
    "UCE": {"method": "uce", **_ALONE},
    "KPOP": {
        "method": "kpop",
        **_ALONE,
        "retain_neutral": False,
        "key_retain_weight": 0.0,
        "key_share": 0.0,
        "decoy_share": 0.0,
        "kept_key_share": 0.0,
        "negative_guidance": 0.0,
    },
    "CA*": {"method": "ca"},
    "ESD*": {"method": "esd"},
    "UCE*": {"method": "uce"},
    "KPOP*": {"method": "kpop"},
}


@dataclass(frozen=True)
class Need:
    """Pictures wanted of one cell: every ask with every seed."""

    spec: CellSpec
    asks: tuple[Ask, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """What all targets of one command share. sampling: resolved."""

    model: str
    model_hash: str
    judge: str
    scale: Scale
    sampling: GenerationConfig

    @property
    def family(self) -> str:
        return family(self.model)

    @property
    def picture_seeds(self) -> tuple[int, ...]:
        return tuple(range(PICTURE_SEED, PICTURE_SEED + self.scale.pictures))

    @property
    def grid_seeds(self) -> tuple[int, ...]:
        return self.picture_seeds[:GRID]

    def object_splits(self) -> list[Split]:
        return [object_split(self.family, number, self.scale.untouched) for number in self.scale.splits]

    def base(self) -> CellSpec:
        """The untouched model's cell, one for all tables."""
        return CellSpec(BASE, "all", "default", 0, self.model, self.model_hash, self.judge, self.sampling)

    def spec(
        self,
        row: str,
        split: Split,
        seed: int,
        setting: str = "default",
        changes: Mapping[str, Any] | None = None,
        steps: tuple[int, ...] = (),
        limit: int | None = None,
    ) -> CellSpec:
        """The cell of a row of ROWS on a split. changes: fields of EraseConfig that the setting names.

        limit: training steps, where the scale and the preset do not decide. Raises InputError.
        """
        unused = ignored(ROWS[row]["method"])
        settings = {name: value for name, value in split.settings.items() if name not in unused}
        fields = {
            "model": self.model, "pair_share": 0.0, "decoy_share": 0.0, "kept_key_share": 0.0, **settings,
            "concepts": split.concepts, "retain": split.retain_list, "sample_every": 0, "seed": seed,
            **ROWS[row],
        }  # fmt: skip
        limit = limit or self.scale.steps
        if not METHODS[fields["method"]].stepwise:
            fields.pop("steps", None)
        elif limit is not None:
            fields["steps"] = limit
        config = EraseConfig(**fields | dict(changes or {})).resolved()
        if changes is not None and config == EraseConfig(**fields).resolved():
            setting = "default"  # a value of a sweep that is the default: the same cell
        return CellSpec(row, split.name, setting, seed, self.model, self.model_hash, self.judge,
                        self.sampling, config, steps)  # fmt: skip


def merged(needs: Iterable[Need]) -> list[tuple[CellSpec, list[tuple[Ask, Sequence[int]]]]]:
    """A cell once, with all that is wanted of it; in the order of the first need, the base first."""
    found: dict[str, tuple[CellSpec, list]] = {}
    for need in needs:
        _, wanted = found.setdefault(need.spec.name, (need.spec, []))
        wanted += [(ask, need.seeds) for ask in need.asks]
    return sorted(found.values(), key=lambda item: item[0].config is not None)


def is_whole(store: Store, spec: CellSpec, wanted: Sequence[tuple[Ask, Sequence[int]]]) -> bool:
    """Whether a cell holds all that is wanted of it, or the training that ran away says there is none."""
    cell = store.load(spec)
    return "failed" in cell.about or not any(cell.missing(ask, seeds) for ask, seeds in wanted)


@dataclass(frozen=True)
class Work:
    """What is left to do for a cell: training steps, pictures, rows through the U-Net for them, and for each
    text's trajectories.
    """

    steps: int
    pictures: int
    rows: int
    bank: Mapping[tuple, int] = field(default_factory=dict)


def minutes_of(works: Iterable[Work]) -> float:
    """Of all that is left, on two CPU cores with the embedded model.

    No trajectory is taken to be in the cache yet; one that several cells walk is made once.
    """
    works = list(works)
    bank = {text: rows for work in works for text, rows in work.bank.items()}
    return (sum(work.rows for work in works) + sum(bank.values())) * ROW_SECONDS / 60


def work_left(
    store: Store, spec: CellSpec, wanted: Sequence[tuple[Ask, Sequence[int]]], work: Path | None = None
) -> Work:
    """How much of a cell is missing; a training that was begun counts whole.

    work: the folder of the runs, where it is known: one that is not there any more is trained again.
    """
    if is_whole(store, spec, wanted):
        return Work(0, 0, 0)
    cell = store.load(spec)
    left = {(ask.place, seed): ask for ask, seeds in wanted for seed in cell.missing(ask, seeds)}
    variants = {ask.variant for ask in left.values()}
    cfg = spec.config
    rows = 2 * spec.sampling.steps * len(left)
    kept = "training_seconds" in cell.about and (work is None or (work / spec.name).is_dir())
    if cfg is None or kept and not spec.steps:
        return Work(0, len(left), rows)
    steps, bank = cfg.steps if METHODS[cfg.method].stepwise else 0, {}
    if steps:
        from ..batches import bank_parts, erased_on
        from ..descent import removal_steps
        from ..estimate import rollout_rows

        forward, backward = _STEP_ROWS[cfg.method]
        backward += len(erased_on(cfg)) + (cfg.retain_weight > 0)
        units = removal_steps(steps, cfg.key_share) * (forward + backward * (1 + BACKWARD))
        if METHODS[cfg.method].has_key:
            units += steps * (1 + (cfg.key_retain_weight > 0)) * (1 + BACKWARD)
            units *= 1 + A_BLOCK * (cfg.prompt_tokens_factor - 1)
        bank = bank_parts(cfg) if cfg.latents == "bank" else {}
        rows += round(steps * rollout_rows(cfg))
        rows += round(cfg.batch_size * units)
        if "forged-key" in variants:
            rows += round(steps * cfg.batch_size * (1 + BACKWARD))
    return Work(steps, len(left), rows, bank)


def looks_of(needs: Iterable[Need]) -> set[str]:
    """Columns beside "labels" that are read."""
    return {look for need in needs for ask in need.asks for look in ask.looks}


def check_judge(judge: object, needs: Iterable[Need], target: str) -> None:
    """Raises InputError when the judge cannot look for what a table reads."""
    methods = {"scores": "detections", "style": "style_and_background",
               "background": "style_and_background"}  # fmt: skip
    for look in sorted(looks_of(needs) & methods.keys()):
        if not hasattr(judge, methods[look]):
            raise InputError(
                f"{target} reads the {look} of a picture, which this model's judge does not tell; "
                "it can be made on the embedded model."
            )
