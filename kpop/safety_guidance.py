"""Safe Latent Diffusion (Schramowski et al. 2023): guidance away from a safety text c_S while drawing.

    eps = e_0 + s_g (e_p - e_0 - gamma)                     e_0, e_p, e_S: without text, with it, with c_S
    gamma = mu (e_S - e_0) + s_m nu                         nothing of it before step delta (warm-up)
    mu = min(1, s_S |e_p - e_S|) where e_p - e_S < lambda, elsewhere 0; element by element
    nu <- beta_m nu + (1 - beta_m) gamma                    from 0, in the warm-up too

The paper prints max(1, .) in mu; its text and its authors' program bound the scale at 1, as here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from .config import Concept, names
from .errors import InputError


@dataclass(frozen=True)
class SafetyGuidance:
    """The five numbers of SLD: delta (sampling steps), s_S, lambda, s_m and beta_m."""

    warmup_steps: int
    scale: float
    threshold: float
    momentum_scale: float
    momentum_beta: float

    def step(
        self, i: int, plain: Tensor, told: Tensor, unsafe: Tensor, momentum: Tensor
    ) -> tuple[Tensor, Tensor]:
        """gamma of sampling step i (from 0), to be taken from told - plain, and the next momentum nu.

        plain, told, unsafe: e_0, e_p, e_S [B, C, h, w]; momentum: nu, like them, zeros at step 0.
        """
        apart = told - unsafe
        mu = (self.scale * apart).abs().clamp(max=1.0)
        mu = torch.where(apart < self.threshold, mu, torch.zeros_like(mu))
        gamma = mu * (unsafe - plain) + self.momentum_scale * momentum
        momentum = self.momentum_beta * momentum + (1 - self.momentum_beta) * gamma
        return (gamma if i >= self.warmup_steps else torch.zeros_like(gamma)), momentum


# The authors' named configurations, as in the program they released; made for 50 steps.
STRENGTHS: Mapping[str, SafetyGuidance] = MappingProxyType(
    {
        "weak": SafetyGuidance(15, 20.0, 0.0, 0.0, 0.0),
        "medium": SafetyGuidance(10, 1000.0, 0.01, 0.3, 0.4),
        "strong": SafetyGuidance(7, 2000.0, 0.025, 0.5, 0.7),
        "max": SafetyGuidance(0, 5000.0, 1.0, 0.5, 0.7),
    }
)


def strength(asked: str | SafetyGuidance) -> SafetyGuidance:
    """The numbers of a named strength, or numbers of one's own. Raises InputError."""
    if isinstance(asked, SafetyGuidance):
        return asked
    if asked not in STRENGTHS:
        raise InputError(f"safety must be one of {', '.join(STRENGTHS)}, not {asked!r}.")
    return STRENGTHS[asked]


def safety_text(concepts: Iterable[Concept]) -> str:
    """c_S of a run: every word of its concepts."""
    return ", ".join(word for concept in concepts for word in names(concept))
