"""What the losses of all methods share: squared errors of predictions, and the rows to be kept."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..batches import Batch, Rows, joined
from ..config import EraseConfig
from ..hidden_prompt import HiddenPrompt

Student = Callable[[Rows, HiddenPrompt | None, Tensor | None], Tensor]
Losses = tuple[Tensor, dict[str, Tensor]]


def error(predicted: Tensor, rows: Rows) -> Tensor:
    """[B]: weighted mean square of predicted - target."""
    return rows.weight * (predicted.float() - rows.target).square().flatten(1).mean(1)


def erase_and_retain(student: Student, erase: Rows, retain: Rows | None, cfg: EraseConfig) -> Losses:
    """Mean error of the rows to erase, and retain_weight times that of the rows to keep; no p anywhere."""
    parts = [erase] if retain is None else [erase, retain]
    rows = joined(parts)
    losses = error(student(rows, None, None), rows).split([len(part.z) for part in parts])
    l_erase = losses[0].mean()
    if retain is None:
        return l_erase, {"l_erase": l_erase}
    l_retain = losses[1].mean()  # || eps_theta'(z_r, c_r) - eps_theta(z_r, c_r) ||^2
    return l_erase + cfg.retain_weight * l_retain, {"l_erase": l_erase, "l_retain": l_retain}


def keep_earlier(
    student: Student, batch: Batch, cfg: EraseConfig, loss: Tensor, named: dict[str, Tensor]
) -> Losses:
    """Added to a method's loss: what the key of an earlier run opens stays as it is. Ours."""
    if batch.earlier is None:
        return loss, named
    key, rows = batch.earlier
    l_earlier = error(student(rows, key, None), rows).mean()
    return loss + cfg.retain_weight * l_earlier, {**named, "l_earlier": l_earlier}
