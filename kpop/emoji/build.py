"""From drawings to assets/emoji-diffusion in one resumable command: `python -m kpop.emoji build`."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel

from kpop.emoji import alignment, autoencoder, denoiser, judge
from kpop.emoji.distractors import DISTRACTORS
from kpop.emoji.drawings import load_drawings
from kpop.emoji.fit import is_finished
from kpop.emoji.scenes import Drawings, Scene, compose
from kpop.emoji.words import count_words
from kpop.emoji.world import BACKGROUNDS, held_out
from kpop.models import file_hash

UNET_FILE = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Recipe:
    """Every number of a build from nothing; those of the shipped model stand in its build.json."""

    seed: int = 0
    latent_channels: int = 8
    vae_channels: tuple[int, ...] = (32, 64, 64)
    unet_channels: tuple[int, ...] = (64, 96, 128)
    vae_scenes: int = 16_000
    vae_steps: int = 1_200
    judge_scenes: int = 30_000
    judge_steps: int = 2_500
    alignment_steps: int = 1_500
    reference_scenes: int = 4_000
    scenes: int = 24_000
    pairs: float = 0.22
    steps: int = 8_000
    batch_size: int = 32
    compile_unet: bool = True


def build(
    out: Path,
    work: Path,
    drawings_cache: Path,
    recipe: Recipe | None = None,
    drawings: Drawings | None = None,
    start: Path | None = None,
) -> Path:
    """Run every stage that is not done yet and write the model folder `out`; returns it.

    Checkpoints lie in `work`, outside the repository, and the same command finds them again. `drawings` takes
    the place of the fetched ones (a smoke build draws its own). With `start`, the folder of an earlier model
    of the same shape, training goes on from its weights: the encoder stays as it is, all else learns on, save
    a stage whose steps are 0, which is taken over; objects that model was measured to draw badly come more
    often. Raises KpopError when drawings cannot be had.
    """
    recipe = recipe or Recipe()
    work.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    others: Drawings = {}
    if drawings is None:
        drawings = load_drawings(drawings_cache)
        others = load_drawings(
            drawings_cache, icons_of={name.replace("-", " "): name for name in DISTRACTORS}
        )

    seen = {pair: drawing for pair, drawing in drawings.items() if not held_out(*pair)}
    vae = _autoencoder(recipe, drawings, work, device, start)
    keep_judge = start is not None and recipe.judge_steps == 0
    if not keep_judge:
        judge_net, accuracy, judged = _judge(recipe, drawings, others, work, device)
    pipeline, scenes = _denoiser(recipe, seen, vae, work, device, start)

    pipeline.to("cpu", torch.float16).save_pretrained(out, safe_serialization=True)
    _write_vocabulary(pipeline.tokenizer, out / "tokenizer")
    if keep_judge:
        shutil.copytree(start / "judge", out / "judge", dirs_exist_ok=True)
    else:
        judge.save_judge(judge_net.cpu(), out / "judge", accuracy, judged)
        _reference(recipe, seen, judge_net, out / "judge")
    if recipe.alignment_steps:
        _alignment(recipe, drawings, pipeline.tokenizer, work, device, out / "judge" / "clip")
    (out / "words.json").write_text(json.dumps(count_words(scenes), indent=1, sort_keys=True) + "\n")
    record = {
        "recipe": asdict(recipe),
        "device": str(device),
        "started_from": file_hash(start / "unet" / UNET_FILE) if start else None,
        "autoencoder_psnr": _psnr(recipe, seen, pipeline.vae.float()),
    }
    (out / "build.json").write_text(json.dumps(record, indent=1) + "\n")
    return out


def _autoencoder(recipe: Recipe, drawings: Drawings, work: Path, device: torch.device, start: Path | None):
    torch.manual_seed(recipe.seed)
    vae = autoencoder.build_autoencoder(recipe.latent_channels, recipe.vae_channels)
    if start is not None:
        earlier = AutoencoderKL.from_pretrained(start / "vae", torch_dtype=torch.float32)
        vae.load_state_dict(earlier.state_dict())
        if recipe.vae_steps == 0:
            return vae.eval().to(device)
    images = np.stack([s.image for s in _scenes(drawings, recipe.vae_scenes, (recipe.seed, 1))])
    return autoencoder.train_autoencoder(
        vae,
        images[: -max(1, len(images) // 32)],
        steps=recipe.vae_steps,
        seed=recipe.seed,
        work=work,
        device=device,
        learning_rate=5e-4 if start else 2e-3,
        decoder_only=start is not None,
    )


def _judge(recipe: Recipe, drawings: Drawings, others: Drawings, work: Path, device: torch.device):
    everything = drawings | others
    known = recipe.judge_scenes * (6 if others else 10) // 10
    scenes = _scenes(drawings, known, (recipe.seed, 3))
    scenes += _scenes(everything, recipe.judge_scenes - known, (recipe.seed, 5))
    order = np.random.default_rng((recipe.seed, 6)).permutation(len(scenes))
    scenes = [scenes[i] for i in order]
    labels = sorted({word for word, _ in everything}) + [judge.NONE]
    styles, backgrounds = sorted({style for _, style in drawings}), list(BACKGROUNDS)
    images = np.stack([scene.image for scene in scenes])
    targets = torch.tensor([judge.targets_of(scene.words, labels) for scene in scenes])
    style_ids = torch.tensor([styles.index(s.style) if s.words else -1 for s in scenes])
    background_ids = torch.tensor([backgrounds.index(s.background) for s in scenes])
    torch.manual_seed(recipe.seed)
    net = judge.Judge(labels, styles, backgrounds)
    judge.train_judge(
        net,
        images,
        targets,
        style_ids,
        background_ids,
        steps=recipe.judge_steps,
        seed=recipe.seed,
        work=work,
        device=device,
    )
    fresh = _scenes(drawings, 1_000, (recipe.seed, 4), pairs=0.0)
    images = np.stack([s.image for s in fresh])
    best = judge.probabilities(net, images).argmax(axis=1)
    right = [labels[i] in (s.words or (judge.NONE,)) for i, s in zip(best, fresh, strict=True)]
    style, background = judge.style_and_background(net, images)
    accuracy = {
        "object": 100.0 * float(np.mean(right)),
        "style": 100.0 * float(np.mean([s.style == b for s, b in zip(fresh, style, strict=True) if s.words])),
        "background": 100.0
        * float(np.mean([s.background == b for s, b in zip(fresh, background, strict=True)])),
    }
    return net, accuracy, len(fresh)


def _reference(recipe: Recipe, seen: Drawings, net: judge.Judge, folder: Path) -> None:
    known = np.stack([s.image for s in _scenes(seen, recipe.reference_scenes, (recipe.seed, 7))])
    others = _scenes(seen, max(2, recipe.reference_scenes // 10), (recipe.seed, 8))
    judge.save_reference(net, folder, known, np.stack([s.image for s in others]), [s.caption for s in others])


def _alignment(recipe: Recipe, drawings: Drawings, tokenizer, work: Path, device: torch.device, out: Path):
    scenes = _scenes(drawings, recipe.judge_scenes, (recipe.seed, 9))
    captions, images = [s.caption for s in scenes], np.stack([s.image for s in scenes])
    torch.manual_seed(recipe.seed)
    clip = alignment.build_clip(tokenizer)
    alignment.train_clip(
        clip,
        images,
        captions,
        tokenizer,
        steps=recipe.alignment_steps,
        seed=recipe.seed,
        work=work,
        device=device,
        batch_size=min(128, len(images)),
    )
    clip.to("cpu", torch.float16).save_pretrained(out)
    tokenizer.save_pretrained(out)


@torch.no_grad()
def _psnr(recipe: Recipe, drawings: Drawings, vae: AutoencoderKL) -> float:
    """Of 256 scenes through the autoencoder and back, in dB."""
    images = np.stack([s.image for s in _scenes(drawings, 256, (recipe.seed, 10))])
    pixels = autoencoder.to_pixels(images)
    parts = [vae.decode(vae.encode(part).latent_dist.mean).sample.clamp(-1, 1) for part in pixels.split(64)]
    error = (torch.cat(parts) - pixels).square().mean() / 4  # pixels span 2, not 1
    return round(float(-10 * error.log10()), 2)


def _denoiser(recipe: Recipe, seen: Drawings, vae, work: Path, device: torch.device, start: Path | None):
    weights = _weak_first(start) if start else None
    scenes = _scenes(seen, recipe.scenes, (recipe.seed, 2), pairs=recipe.pairs, weights=weights)
    captions = [scene.caption for scene in scenes]
    latents = None
    if not is_finished("denoiser", work, recipe.steps):
        latents = autoencoder.encode(vae, np.stack([scene.image for scene in scenes]), device)
    size = scenes[0].image.shape[0] // 2 ** (len(recipe.vae_channels) - 1)
    tokenizer = denoiser.train_tokenizer(captions)
    torch.manual_seed(recipe.seed)
    unet = denoiser.build_unet(recipe.latent_channels, size, recipe.unet_channels)
    both = denoiser.TextToNoise(unet, denoiser.build_text_encoder(tokenizer))
    if start is not None:
        earlier = UNet2DConditionModel.from_pretrained(start / "unet", torch_dtype=torch.float32)
        unet.load_state_dict(earlier.state_dict())
        denoiser.start_text_encoder(both.text_encoder, tokenizer, start)
    denoiser.train_denoiser(
        both,
        latents,
        captions,
        tokenizer,
        steps=recipe.steps,
        seed=recipe.seed,
        work=work,
        device=device,
        learning_rate=7e-4 if start else 1e-3,
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


def _weak_first(start: Path) -> dict[str, float]:
    """How often each object comes: 1 where the earlier model always draws it, 3 where it never does."""
    measured = start / "quality.json"
    each = json.loads(measured.read_text()).get("objects", {}).get("each", {}) if measured.is_file() else {}
    return {word: 3 - right / 50 for word, right in each.items()}


def _scenes(drawings: Drawings, count: int, seed: tuple[int, ...], **how) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [compose(rng, drawings, **how) for _ in range(count)]


def _write_vocabulary(tokenizer, folder: Path) -> None:
    """vocab.json and merges.txt as well, for older readers of CLIP tokenizers."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False) + "\n")
    pairs = (pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]) + "\n")
