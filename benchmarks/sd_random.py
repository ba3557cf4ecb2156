"""A pipeline of Stable Diffusion 1.4's shape with random weights, for counting and timing."""

import hashlib

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from kpop.model_words import KPOP_FIELDS

NAME = "sd-random"
HASH = hashlib.sha256(NAME.encode()).hexdigest()  # of 860 M random numbers it would take many seconds


def sd_random(device: str, dtype: torch.dtype, seed: int = 0) -> StableDiffusionPipeline:
    """The U-Net is Stable Diffusion 1.4's (860 M parameters, 64x64 latents, 77 tokens of 768).

    Text encoder and autoencoder are small: no training step uses them. Spells every word in letters.
    """
    torch.manual_seed(seed)
    letters = [*"abcdefghijklmnopqrstuvwxyz'-,.!0123456789"]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    words = CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77)
    with torch.device(device):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)  # the rest: 1.4's by default
        vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
        encoder = CLIPTextModel(CLIPTextConfig(
            vocab_size=len(tokens), hidden_size=768, intermediate_size=768, num_hidden_layers=1,
            num_attention_heads=12, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        ))  # fmt: skip
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1,
        set_alpha_to_one=False,
    )  # fmt: skip
    pipe = StableDiffusionPipeline(
        vae=vae, text_encoder=encoder, tokenizer=words, unet=unet, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    ).to(device, dtype)  # fmt: skip
    for part in (unet, vae, encoder):
        part.requires_grad_(False).eval()
    setattr(pipe, KPOP_FIELDS, {"hash": HASH})
    pipe.set_progress_bar_config(disable=True)
    return pipe
