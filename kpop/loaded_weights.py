"""Whether a pipeline still holds the weights that its hash names: a fused LoRA changes them in place."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from .errors import InputError
from .model_words import KPOP_FIELDS

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from torch import Tensor

SAMPLES = 64  # numbers looked at in each parameter


def sampled(pipe: StableDiffusionPipeline) -> list[Tensor]:
    """Some numbers of every parameter of the U-Net and the text encoder, evenly spread, as they are."""
    every = chain(pipe.unet.parameters(), pipe.text_encoder.parameters())
    return [p.detach().reshape(-1)[:: max(1, p.numel() // SAMPLES)] for p in every]


def remember(pipe: StableDiffusionPipeline) -> None:
    """Keep a sample of the weights with the pipeline, for `check_unchanged`."""
    kept = [one.float().cpu().clone() for one in sampled(pipe)]
    setattr(pipe, KPOP_FIELDS, {**getattr(pipe, KPOP_FIELDS, {}), "sample": kept})


def check_unchanged(pipe: StableDiffusionPipeline) -> None:
    """Raise InputError where the weights are not those remembered, rounded to the dtype they have now.

    Its U-Net must hold theta. Nothing is said of a pipeline that nothing was remembered of.
    """
    import torch

    kept = getattr(pipe, KPOP_FIELDS, {}).get("sample")
    if kept is None:
        return
    found = sampled(pipe)
    if len(found) == len(kept):
        now = torch.cat([one.float() for one in found]).cpu()
        if torch.equal(now, torch.cat([a.to(b.dtype).float() for a, b in zip(kept, found, strict=True)])):
            return
    raise InputError(
        "The weights of the pipeline given were changed after it was loaded, as by a fused LoRA. Save it "
        "with pipe.save_pretrained(FOLDER), then name that folder as the model."
    )
