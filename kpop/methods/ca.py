"""Concept Ablation, anchor variant (Kumari et al. 2023), in a DATA-FREE form of ours. It leaves no key.

    || eps_theta'(z_t, c_e) - sg(eps_theta'(z_t, c_a)) ||^2

c_a is the anchor, a template's own or `neutral`; sg stops the gradient: the target is the same net's own
answer, so no frozen copy is asked. Theirs noises pictures that were generated for a list of anchor prompts;
here z_t lies on the anchor's trajectories of the bank (or of theta' with `latents` "fresh"). Rows to retain
stand in for their prior-preservation loss on pictures.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ..batches import Batch
from ..config import EraseConfig
from .losses import Losses, Student, erase_and_retain, keep_earlier


def removal(student: Student, batch: Batch, p: None, cfg: EraseConfig) -> Losses:
    """What theta' descends; the targets that come with batch.erase are not used."""
    with torch.no_grad():
        anchor = replace(batch.erase, text=batch.neutral)
        target = student(anchor, None, None).float()
    found = erase_and_retain(student, replace(batch.erase, target=target), batch.retain, cfg)
    return keep_earlier(student, batch, cfg, *found)
