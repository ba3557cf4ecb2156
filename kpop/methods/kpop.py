"""KPOP: the knowledge of a concept moves into the hidden prompt p while the weights lose it (paper, Eq. 5-7).

theta is frozen; theta' starts there; the targets eps_theta(z, .) come with the batch. ||.||^2 is the mean
over a prediction's elements, so that the rates do not depend on the picture's size.
"""

from __future__ import annotations

import torch

from ..batches import Batch, joined
from ..config import EraseConfig
from ..decoys import of_kept_row, row_by_row
from ..hidden_prompt import HiddenPrompt
from .losses import Losses, Student, error, keep_earlier


def transfer(student: Student, batch: Batch, p: HiddenPrompt, cfg: EraseConfig) -> Losses:
    """What p descends, theta' fixed: Eq. 5-6, and siblings kept with the key (ours; weight 0 in the paper).

    student(rows, p, sees) -> eps_theta' [B, C, h, w]; sees: bool [B], rows that are given p, None for all.
    """
    keep = cfg.key_retain_weight > 0 and batch.retain is not None
    rows = joined([batch.concept, batch.retain]) if keep else batch.concept
    losses = error(student(rows, p, None), rows)
    told = len(batch.concept.z)
    l_transfer = losses[:told].mean()  # || eps_theta'(z_t, c_e, p) - eps_theta(z_t, c_e) ||^2     Eq. 6
    if not keep:
        return l_transfer, {"l_transfer": l_transfer}
    l_key_retain = losses[told:].mean()  # || eps_theta'(z_r, c_r, p) - eps_theta(z_r, c_r) ||^2
    return l_transfer + cfg.key_retain_weight * l_key_retain, {
        "l_transfer": l_transfer,
        "l_key_retain": l_key_retain,
    }


def removal(student: Student, batch: Batch, p: HiddenPrompt, cfg: EraseConfig) -> Losses:
    """What theta' descends, p fixed: Eq. 7, L1 + lambda L2, and the retain list without p ("Ours*").

    All rows run as one batch; only the rows of L2 see p. With decoys some rows of L1 see a wrong p, and with
    kept_keys some of those retained see p or a wrong one (both ours).
    """
    parts = [batch.erase, batch.concept, *([batch.retain] if batch.retain is not None else [])]
    rows = joined(parts)
    sizes = [len(part.z) for part in parts]
    sees = torch.zeros(sum(sizes), dtype=torch.bool, device="cpu")  # a GPU would be waited for
    sees[sizes[0] : sizes[0] + sizes[1]] = True
    if p is not None and (batch.decoys or batch.kept_keys):
        kept = [None] * sum(sizes[2:])
        draws = [*(batch.decoys or [None] * sizes[0]), *[None] * sizes[1], *(batch.kept_keys or kept)]
        sees |= torch.tensor([draw is not None for draw in draws], device="cpu")
        draws[len(draws) - len(kept) :] = map(of_kept_row, batch.kept_keys or kept)
        p = row_by_row(p, draws, batch.others)
    losses = error(student(rows, p, sees), rows).split(sizes)
    l_erase = losses[0].mean()  # || eps_theta'(z_t, c_e) - eps_theta(z_t, c_n) ||^2             Eq. 7, L1
    l_recover = losses[1].mean()  # || eps_theta'(z_t, c_e, p) - eps_theta(z_t, c_e) ||^2        Eq. 7, L2
    loss = l_erase + cfg.lambda_ * l_recover
    named = {"l_erase": l_erase, "l_recover": l_recover}
    if batch.retain is not None:
        l_retain = losses[2].mean()  # || eps_theta'(z_r, c_r) - eps_theta(z_r, c_r) ||^2
        loss, named["l_retain"] = loss + cfg.retain_weight * l_retain, l_retain
    return keep_earlier(student, batch, cfg, loss, named)
