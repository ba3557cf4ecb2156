"""Small random StableDiffusionPipelines and literal attention maps, without any file from outside."""

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from kpop.attention_recorder import BANDS
from kpop.attribution import Attribution
from kpop.attribution_key import key_use
from kpop.prompt_words import read_prompt

LAYERS = (
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2",
    "up_blocks.1.attentions.0.transformer_blocks.0.attn2",
)
WORDS = ("a", "church", "on", "blue", "background", "castle", "s", "th", "er", "'s")


def tokenizer(length: int = 77) -> CLIPTokenizer:
    """Knows WORDS whole and spells every other word in letters: "dogs" is d, o, g, s."""
    letters = [*"abcdefghijklmnopqrstuvwxyz'-,.!0123456789"]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    merges = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
            tokens.append(pieces[0])
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=list(dict.fromkeys(merges)), model_max_length=length)


def random_pipeline(seed: int = 0, sd_shaped: bool = False) -> StableDiffusionPipeline:
    """Two levels and 8x8 latents, or Stable Diffusion 1's shape (64x64 latents, 512 px) with few channels."""
    torch.manual_seed(seed)
    words = tokenizer()
    width = 768 if sd_shaped else 32
    levels = 4 if sd_shaped else 2
    channels = (32,) * levels
    down = ("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",)
    up = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1)
    unet = UNet2DConditionModel(
        sample_size=64 if sd_shaped else 8, block_out_channels=channels, layers_per_block=1,
        norm_num_groups=8, down_block_types=down, up_block_types=up, cross_attention_dim=width,
        attention_head_dim=8 if sd_shaped else 4,
    )  # fmt: skip
    for name, weight in unet.named_parameters():
        if "attn2.to_q" in name or "attn2.to_k" in name:
            weight.data *= 6 if sd_shaped else 3  # attention of random weights is flat: make it choose
    sides = ("DownEncoderBlock2D",) * levels, ("UpDecoderBlock2D",) * levels
    vae = AutoencoderKL(
        down_block_types=sides[0], up_block_types=sides[1], block_out_channels=(8,) * levels,
        norm_num_groups=4,
    )  # fmt: skip
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=width,
            intermediate_size=width,
            num_hidden_layers=1,
            num_attention_heads=4,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )  # fmt: skip
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1,
        set_alpha_to_one=False,
    )  # fmt: skip
    pipe = StableDiffusionPipeline(
        vae=vae, text_encoder=encoder, tokenizer=words, unet=unet, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    for part in (unet, vae, encoder):
        part.requires_grad_(False).eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


OWN_KEY = key_use("own", "concat")


def literal_maps(variant: str, layers, key: float, image, use=OWN_KEY) -> Attribution:
    """An Attribution whose layers hold these maps of "church": for each of LAYERS a list, a map a head.

    key: share of attention on p. What word and p leave is split 2 to 3 between start and end of the prompt.
    use: what a recovered picture was drawn with.
    """
    sums = {}
    for name, heads in zip(LAYERS, layers, strict=False):
        word = torch.stack(heads) * (1 - key)
        p = torch.full_like(word, key)
        rest = 1 - word - p
        sums[name] = torch.stack([0.4 * rest, word, 0.6 * rest, p], 1).expand(BANDS, -1, -1, -1, -1)
    text, size = read_prompt(tokenizer(), "church"), tuple(layers[0][0].shape)
    return Attribution(
        "church", 0, variant, image, ("church",), tuple(sums), size, (1,) * BANDS, text, sums,
        key=use if variant == "recovered" else None,
    )  # fmt: skip
