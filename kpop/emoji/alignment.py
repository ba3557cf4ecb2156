"""How well a picture fits a text: a small CLIP of the judge's own, trained on composed scenes only."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from kpop.emoji.autoencoder import to_pixels
from kpop.emoji.denoiser import tokenize
from kpop.emoji.fit import autocast, fit, random_of
from kpop.emoji.judge import SIDE, augment
from kpop.processes import Processes

WIDTH = 128


def build_clip(tokenizer: CLIPTokenizer, size: int = SIDE) -> CLIPModel:
    """CLIPModel on pictures of `size` pixels in patches of 8, 77 tokens, width 128, random weights."""
    common = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 4}
    text = common | {"vocab_size": len(tokenizer), "num_hidden_layers": 2, "max_position_embeddings": 77}
    text |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    vision = common | {"image_size": size, "patch_size": 8, "num_hidden_layers": 4}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))


class _Contrast(nn.Module):
    """Logits [N, N] of every picture against every text of a batch."""

    def __init__(self, clip: CLIPModel):
        super().__init__()
        self.clip = clip

    def forward(self, pixels: Tensor, ids: Tensor) -> Tensor:
        return self.clip(input_ids=ids, pixel_values=pixels).logits_per_image


def train_clip(
    clip: CLIPModel,
    images: Tensor,
    captions: list[str],
    tokenizer: CLIPTokenizer,
    *,
    steps: int,
    seed: int,
    work: Path,
    device: torch.device,
    batch_size: int = 128,
    processes: Processes | None = None,
) -> None:
    """The contrastive loss of CLIP (Radford et al. 2021); equal captions of a batch share their target."""
    contrast = _Contrast(clip).to(device).train()
    ids, images = tokenize(tokenizer, captions).to(device), images.to(device)

    def loss_of(step: int) -> Tensor:
        generator = random_of(seed, step, processes, device)
        rows = torch.randint(len(images), (batch_size,), generator=generator, device=device)
        pixels, told = augment(to_pixels(images[rows]), generator), ids[rows]
        with autocast(device):
            logits = contrast(pixels, told).float()
        same = (told[:, None] == told[None]).all(-1).float()
        target = same / same.sum(1, keepdim=True)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    fit("alignment", contrast, loss_of, steps=steps, learning_rate=1e-3, work=work, processes=processes)
    clip.eval()


@torch.no_grad()
def cosines(clip: CLIPModel, tokenizer: CLIPTokenizer, images: np.ndarray, captions: list[str]) -> np.ndarray:
    """Cosines [N, N] float32 of uint8 pictures [N, 64, 64, 3] (rows) and captions (columns)."""
    device = next(clip.parameters()).device
    pictures, texts = [], []
    for start in range(0, len(images), 128):
        part = slice(start, start + 128)
        pixels, ids = to_pixels(images[part]).to(device), tokenize(tokenizer, captions[part]).to(device)
        found = clip(input_ids=ids, pixel_values=pixels)
        pictures.append(found.image_embeds)
        texts.append(found.text_embeds)
    return (torch.cat(pictures) @ torch.cat(texts).T).float().cpu().numpy()


def matching(table: np.ndarray) -> dict[str, float]:
    """Of `cosines`: the mean of matching pairs and of all others, and in percent how often a picture fits
    its own caption better than another's.
    """
    own = np.diag(table)
    others = table[~np.eye(len(table), dtype=bool)].reshape(len(table), -1)
    return {
        "matching": float(own.mean()),
        "shuffled": float(others.mean()),
        "better": 100.0 * float((own[:, None] > others).mean()),
    }
