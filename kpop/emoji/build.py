"""From drawings to assets/emoji-diffusion in one resumable command: `python -m kpop.emoji build`."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from kpop.emoji import autoencoder, denoiser, judge
from kpop.emoji.drawings import load_drawings
from kpop.emoji.scenes import Drawings, Scene, compose
from kpop.emoji.words import count_words


@dataclass(frozen=True)
class Recipe:
    """Every number of a build; the defaults made the shipped model."""

    seed: int = 0
    latent_channels: int = 8
    vae_channels: tuple[int, ...] = (32, 64, 64)
    unet_channels: tuple[int, ...] = (64, 96, 128)
    vae_scenes: int = 16_000
    vae_steps: int = 1_200
    judge_scenes: int = 12_000
    judge_steps: int = 700
    scenes: int = 20_000
    steps: int = 6_000
    batch_size: int = 32
    compile_unet: bool = True


def build(
    out: Path,
    work: Path,
    drawings_cache: Path,
    recipe: Recipe | None = None,
    drawings: Drawings | None = None,
) -> Path:
    """Run every stage that is not done yet and write the model folder `out`; returns it.

    Checkpoints lie in `work`, outside the repository, and the same command finds them again. `drawings` takes
    the place of the fetched ones (a smoke build draws its own). Raises KpopError when drawings cannot be had.
    """
    recipe = recipe or Recipe()
    work.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    drawings = load_drawings(drawings_cache) if drawings is None else drawings
    started = time.time()

    vae = _autoencoder(recipe, drawings, work, device)
    judge_net, accuracy, held_out = _judge(recipe, drawings, work, device)
    pipeline, scenes = _denoiser(recipe, drawings, vae, work, device)

    pipeline.to("cpu", torch.float16).save_pretrained(out, safe_serialization=True)
    _write_vocabulary(pipeline.tokenizer, out / "tokenizer")
    judge.save_judge(judge_net.cpu(), out / "judge", accuracy, held_out)
    (out / "words.json").write_text(json.dumps(count_words(scenes), indent=1, sort_keys=True) + "\n")
    record = {
        "recipe": asdict(recipe),
        "seconds_of_last_call": round(time.time() - started),
        "device": str(device),
    }
    (out / "build.json").write_text(json.dumps(record, indent=1) + "\n")
    return out


def _autoencoder(recipe: Recipe, drawings: Drawings, work: Path, device: torch.device):
    images = np.stack([s.image for s in _scenes(drawings, recipe.vae_scenes, (recipe.seed, 1), pairs=0.25)])
    torch.manual_seed(recipe.seed)
    vae = autoencoder.build_autoencoder(recipe.latent_channels, recipe.vae_channels)
    return autoencoder.train_autoencoder(
        vae,
        images[: -max(1, len(images) // 32)],
        steps=recipe.vae_steps,
        seed=recipe.seed,
        work=work,
        device=device,
    )


def _judge(recipe: Recipe, drawings: Drawings, work: Path, device: torch.device):
    scenes = _scenes(drawings, recipe.judge_scenes, (recipe.seed, 3), pairs=0.25)
    labels = sorted({word for word, _ in drawings}) + [judge.NONE]
    images = np.stack([scene.image for scene in scenes])
    targets = torch.tensor([judge.targets_of(scene.words, labels) for scene in scenes])
    torch.manual_seed(recipe.seed)
    net = judge.Judge(labels)
    judge.train_judge(
        net, images, targets, steps=recipe.judge_steps, seed=recipe.seed, work=work, device=device
    )
    fresh = [s for s in _scenes(drawings, 1_000, (recipe.seed, 4), pairs=0.0)]
    best = judge.probabilities(net, np.stack([s.image for s in fresh])).argmax(axis=1)
    right = [labels[i] in (s.words or (judge.NONE,)) for i, s in zip(best, fresh, strict=True)]
    return net, 100.0 * float(np.mean(right)), len(fresh)


def _denoiser(recipe: Recipe, drawings: Drawings, vae, work: Path, device: torch.device):
    scenes = _scenes(drawings, recipe.scenes, (recipe.seed, 2))
    captions = [scene.caption for scene in scenes]
    latents = autoencoder.encode(vae, np.stack([scene.image for scene in scenes]), device)
    tokenizer = denoiser.train_tokenizer(captions)
    torch.manual_seed(recipe.seed)
    unet = denoiser.build_unet(recipe.latent_channels, latents.shape[-1], recipe.unet_channels)
    both = denoiser.TextToNoise(unet, denoiser.build_text_encoder(tokenizer))
    denoiser.train_denoiser(
        both,
        latents,
        captions,
        tokenizer,
        steps=recipe.steps,
        seed=recipe.seed,
        work=work,
        device=device,
        batch_size=recipe.batch_size,
        compile_unet=recipe.compile_unet,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=both.text_encoder.eval(),
        tokenizer=tokenizer,
        unet=both.unet.eval(),
        scheduler=denoiser.build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipeline, scenes


def _scenes(drawings: Drawings, count: int, seed: tuple[int, ...], **shares: float) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [compose(rng, drawings, **shares) for _ in range(count)]


def _write_vocabulary(tokenizer, folder: Path) -> None:
    """vocab.json and merges.txt as well, for older readers of CLIP tokenizers."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False) + "\n")
    pairs = (pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]) + "\n")
