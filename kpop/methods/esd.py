"""ESD: the weights learn to go away from a concept (Gandikota et al. 2023, Eq. 7). It leaves no key.

    || eps_theta'(z_t, c_e) - [eps_theta(z_t, c_n) - eta (eps_theta(z_t, c_e) - eps_theta(z_t, c_n))] ||^2

z_t lies on the concept's own trajectories; eta is `negative_guidance`, 1 in ESD. ESD-x is `trainable`
"xattn", ESD-u "noxattn". The paper rolls z_t out with theta' as it stands (`latents` "fresh"); "bank" takes
the frozen model's.
"""

from __future__ import annotations

from ..batches import Batch
from ..config import EraseConfig
from .losses import Losses, Student, erase_and_retain, keep_earlier


def removal(student: Student, batch: Batch, p: None, cfg: EraseConfig) -> Losses:
    """What theta' descends. The rows to retain are KPOP's and ours: ESD itself has none (retain_weight 0).

    The target of batch.erase is the bracket of Eq. 7, see batches.erased.
    """
    return keep_earlier(student, batch, cfg, *erase_and_retain(student, batch.erase, batch.retain, cfg))
