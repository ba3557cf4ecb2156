"""SLD: Safe Latent Diffusion trains nothing; safety_guidance.py steers the frozen model as it draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import models
from ..config import EraseConfig
from ..safety_guidance import safety_text

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


def solve(pipe: StableDiffusionPipeline, cfg: EraseConfig, model_hash: str) -> tuple[None, dict[str, float]]:
    """Nothing to solve: no weights, no losses. Raises InputError when the safety text is too long."""
    models.check_text(pipe, safety_text(cfg.concepts))
    return None, {}
