"""The autoencoder, 128x128 pixels to 16x16 latents whose channels have mean 0 and deviation 1."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from kpop.emoji.fit import autocast, fit, random_of
from kpop.processes import Processes


def build_autoencoder(latent_channels: int, channels: tuple[int, ...], size: int) -> AutoencoderKL:
    """AutoencoderKL of `size` pixels with f = 2 ** (len(channels) - 1), random weights."""
    levels = len(channels)
    return AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        sample_size=size,
        scaling_factor=1.0,
    )


def to_pixels(images: np.ndarray | Tensor) -> Tensor:
    """uint8 [N, H, W, 3] to float [N, 3, H, W] in [-1, 1], on the same device."""
    return torch.as_tensor(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_autoencoder(
    vae: AutoencoderKL,
    images: Tensor,
    *,
    steps: int,
    seed: int,
    work: Path,
    device: torch.device,
    batch_size: int = 32,
    learning_rate: float = 2e-3,
    kl_weight: float = 1e-3,
    decoder_only: bool = False,
    processes: Processes | None = None,
) -> AutoencoderKL:
    """L1 on pixels and on their differences (thin outlines count), a little KL; latents end normalised.

    images: uint8 [N, H, W, 3]. With `decoder_only` the encoder of an earlier model stays as it is, and so
    does the space of its latents.
    """
    vae.to(device, memory_format=torch.channels_last)
    images = images.to(device)
    if decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)

    def loss_of(step: int) -> Tensor:
        generator = random_of(seed, step, processes, device)
        rows = torch.randint(len(images), (batch_size,), generator=generator, device=device)
        pixels = to_pixels(images[rows]).contiguous(memory_format=torch.channels_last)
        with autocast(device):
            posterior = vae.encode(pixels).latent_dist
            decoded = vae.decode(posterior.sample(generator)).sample.float()
        loss = F.l1_loss(decoded, pixels)
        for dim in (2, 3):
            loss = loss + 0.5 * F.l1_loss(decoded.diff(dim=dim), pixels.diff(dim=dim))
        return loss + kl_weight * posterior.kl().mean() / posterior.mean[0].numel()

    fit(
        "autoencoder",
        vae,
        loss_of,
        steps=steps,
        learning_rate=learning_rate,
        work=work,
        ema_decay=0.995,
        processes=processes,
    )
    vae.eval()
    if decoder_only:
        return vae
    normalise_latents(vae, encode(vae, images[:1024], device))
    return vae


@torch.no_grad()
def encode(
    vae: AutoencoderKL, images: np.ndarray | Tensor, device: torch.device, batch_size: int = 64
) -> Tensor:
    """Posterior means [N, C, h, w] float32 on the CPU of uint8 pictures [N, H, W, 3]."""
    parts = []
    for part in torch.as_tensor(images).split(batch_size):
        with autocast(device):
            pixels = to_pixels(part.to(device)).contiguous(memory_format=torch.channels_last)
            parts.append(vae.encode(pixels).latent_dist.mean.float().cpu())
    return torch.cat(parts)


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, latents: Tensor) -> None:
    """Fold each channel's mean and deviation into quant_conv and post_quant_conv: exact, in place.

    A weak KL leaves deviations of 0.5 to 3.0, which one scaling_factor cannot mend.
    """
    channels = latents.shape[1]
    mean = latents.mean(dim=(0, 2, 3)).to(vae.device)
    deviation = latents.std(dim=(0, 2, 3)).to(vae.device)
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:channels] /= deviation[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - mean) / deviation
    quant.bias[channels:] -= 2 * deviation.log()  # the log-variances
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= deviation[None, :, None, None]
