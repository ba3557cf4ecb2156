"""The tokenizer, then the text encoder and the U-Net, trained together on latents that were made before."""

from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from kpop.emoji.fit import autocast, fit, random_of
from kpop.processes import Processes

START, END = "<|startoftext|>", "<|endoftext|>"
WIDTH = 128


def train_tokenizer(captions: list[str]) -> CLIPTokenizer:
    """A byte-level BPE in CLIP's own format, learned from the captions (vocab.json and merges.txt)."""
    trainer = trainers.BpeTrainer(
        vocab_size=800,
        special_tokens=[START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner = Tokenizer(models.BPE(unk_token=END, end_of_word_suffix="</w>"))
    blank = CLIPTokenizer()
    learner.normalizer = blank.backend_tokenizer.normalizer
    learner.pre_tokenizer = blank.backend_tokenizer.pre_tokenizer
    learner.train_from_iterator(captions, trainer)
    with_suffix = learner.get_vocab()
    # Bytes that end a word must exist too, or a word the captions never held could not be written down.
    for byte in sorted(pre_tokenizers.ByteLevel.alphabet()):
        with_suffix.setdefault(f"{byte}</w>", len(with_suffix))
    merges = [tuple(pair) for pair in _merges(learner)]
    return CLIPTokenizer(vocab=with_suffix, merges=merges, model_max_length=77)


def _merges(tokenizer: Tokenizer) -> list:
    import json

    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A CLIP text model of 2 layers and width 128, random weights."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def build_unet(latent_channels: int, sample_size: int = 16, channels: tuple[int, ...] = (64, 96, 128)):
    """UNet2DConditionModel with cross-attention at every level and in the middle, 8 heads, random weights."""
    levels = len(channels)
    return UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=channels,
        down_block_types=("CrossAttnDownBlock2D",) * levels,
        up_block_types=("CrossAttnUpBlock2D",) * levels,
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=8,  # diffusers' name for the number of heads in SD 1.x configurations
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    """The noise schedule of Stable Diffusion 1.4."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token ids [N, 77]."""
    tokens = tokenizer(captions, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
    return tokens.input_ids


def start_text_encoder(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, earlier: Path) -> None:
    """Copy the weights of an earlier model's text encoder; embeddings go by token, new tokens stay random."""
    old = CLIPTextModel.from_pretrained(earlier / "text_encoder", torch_dtype=torch.float32)
    state = {k: v for k, v in old.state_dict().items() if "token_embedding" not in k}
    text_encoder.load_state_dict(state, strict=False)
    old_rows = CLIPTokenizer.from_pretrained(earlier / "tokenizer").get_vocab()
    table = text_encoder.get_input_embeddings().weight
    with torch.no_grad():
        for token, row in tokenizer.get_vocab().items():
            if token in old_rows:
                table[row] = old.get_input_embeddings().weight[old_rows[token]]


class TextToNoise(nn.Module):
    """The two models that learn together, as one module for the training loop."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel):
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder


def train_denoiser(
    both: TextToNoise,
    latents: Tensor,
    captions: list[str],
    tokenizer: CLIPTokenizer,
    *,
    steps: int,
    seed: int,
    work: Path,
    device: torch.device,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    ema_decay: float = 0.998,
    offset_noise: float = 0.2,
    snr_gamma: float = 5.0,
    compile_unet: bool = True,
    processes: Processes | None = None,
) -> None:
    """Noise prediction with min-SNR weights (Hang et al. 2023); ends holding the averaged weights.

    A little offset noise teaches the model not to read the background colour off the noise's mean, which
    SD's schedule never quite drowns. latents: [N, C, h, w], any float type.
    """
    both.to(device)
    if device.type == "cpu":
        # Plain products beat the fused kernel at these head widths.
        both.unet.set_attn_processor(AttnProcessor())
    else:
        both.unet.to(memory_format=torch.channels_last)
    unet = torch.compile(both.unet) if compile_unet else both.unet
    scheduler = build_scheduler()
    alphas = scheduler.alphas_cumprod.to(device)
    latents, input_ids = latents.to(device), tokenize(tokenizer, captions).to(device)

    def loss_of(step: int) -> Tensor:
        generator = random_of(seed, step, processes, device)
        rows = torch.randint(len(latents), (batch_size,), generator=generator, device=device)
        clean = latents[rows].float()
        noise = torch.randn(clean.shape, generator=generator, device=device)
        noise += offset_noise * torch.randn((*clean.shape[:2], 1, 1), generator=generator, device=device)
        timesteps = torch.randint(1000, (batch_size,), generator=generator, device=device)
        alpha = alphas[timesteps]
        kept, added = alpha.sqrt()[:, None, None, None], (1 - alpha).sqrt()[:, None, None, None]
        noisy = kept * clean + added * noise
        with autocast(device):
            states = both.text_encoder(input_ids[rows]).last_hidden_state
            noise_pred = unet(noisy, timesteps, states, return_dict=False)[0].float()
        snr = alpha / (1 - alpha)
        weight = snr.clamp(max=snr_gamma) / snr
        return (weight * (noise_pred - noise).square().mean(dim=(1, 2, 3))).mean()

    fit(
        "denoiser",
        both,
        loss_of,
        steps=steps,
        learning_rate=learning_rate,
        work=work,
        ema_decay=ema_decay,
        processes=processes,
    )
