"""In which precision a model is trained: float32 for what moves, bf16 for the rest where there is bf16."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import nn

from . import models
from .errors import ModelError

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


def precision_context(unet: nn.Module, precision: str) -> AbstractContextManager:
    """Autocast for bf16 and fp16, nothing for fp32, nor where the U-Net's own weights are of that kind.

    There autocast would only cast to and fro around every norm, half of all kernels that a GPU is given.
    """
    if precision == "fp32":
        return nullcontext()
    kind = torch.bfloat16 if precision == "bf16" else torch.float16
    return nullcontext() if unet.dtype == kind else torch.autocast(unet.device.type, kind)


def training_dtype(precision: str, device: str) -> str:
    """What a model is loaded in to be trained: bf16 on CUDA cards that compute in it, else fp32."""
    has = models.pick_device(device).type == "cuda" and models.cuda_has_bf16()
    return "bf16" if has and precision != "fp32" else "fp32"


def pick_precision(asked: str, pipe: StableDiffusionPipeline) -> str:
    """fp32 or bf16 for what is frozen; "auto": bf16 where the device computes in it. Raises ModelError."""
    device = pipe.unet.device
    if pipe.unet.dtype == torch.float16:
        raise ModelError(
            "Training needs the model in fp32 or bf16, and this one is in fp16; load it with dtype auto."
        )
    if pipe.unet.dtype == torch.bfloat16:
        if asked == "fp32":
            raise ModelError("This model is in bf16; load it with dtype fp32, or leave precision on auto.")
        return "bf16"
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bf16" if models.cuda_has_bf16() else "fp32"
    has = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return "bf16" if device.type == "cpu" and has is not None and has() else "fp32"
