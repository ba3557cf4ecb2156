"""What the lines of an evaluation's table count, as it is kept beside the evaluation."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

SCORES = {"text_score": "fits its text", "base_distance": "distance to the base"}


@dataclass(frozen=True)
class Line:
    """What one line of the table counts.

    column, value: the rows of predictions.csv that belong to it. labels: what counts as seen, as the judge's
    first label or, where `over` is given, with a larger score; none: the mean of the score column `name`.
    """

    name: str
    role: str
    column: str
    value: str
    labels: tuple[str, ...] = ()
    over: float | None = None

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Line:
        """Read JSON of `to_dict`; raises TypeError, ValueError or KeyError on anything else."""
        return replace(cls(**data), labels=tuple(data["labels"]))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)
