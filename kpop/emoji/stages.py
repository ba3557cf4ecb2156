"""The stages of a build. Each leaves its product in its place in the work folder, for the next ones."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from kpop.disk import write_text
from kpop.emoji import alignment, autoencoder, denoiser, judge
from kpop.emoji.judge_quality import measure_judge
from kpop.emoji.recipe import WEIGHTS_FILE, Builder
from kpop.emoji.words import count_words
from kpop.emoji.world import BACKGROUNDS


def make_autoencoder(builder: Builder) -> None:
    recipe, folder = builder.recipe, builder.place("autoencoder")
    vae = autoencoder.build_autoencoder(recipe.latent_channels, recipe.vae_channels, recipe.size)
    if builder.start is not None:
        earlier = AutoencoderKL.from_pretrained(builder.start / "vae", torch_dtype=torch.float32)
        vae.load_state_dict(earlier.state_dict())
    scenes = builder.scenes(builder.known, recipe.vae_scenes, 1)
    if recipe.vae_steps:
        vae = autoencoder.train_autoencoder(
            vae,
            scenes.all(builder.workers)[0],
            steps=recipe.vae_steps,
            seed=recipe.seed,
            work=builder.work,
            device=builder.device,
            batch_size=recipe.vae_batch_size,
            learning_rate=5e-4 if builder.start else 2e-3,
            decoder_only=builder.start is not None,
            processes=builder.processes,
        )
    if builder.processes.leads:
        vae.to("cpu").save_pretrained(folder, safe_serialization=True)
        measured = {"psnr": _psnr(builder, vae)}
        write_text(folder / "measured.json", json.dumps(measured) + "\n")


def make_judge(builder: Builder) -> None:
    recipe, folder = builder.recipe, builder.place("judge")
    if builder.start is not None and recipe.judge_steps == 0:
        if builder.processes.leads:
            shutil.copytree(
                builder.start / "judge", folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("clip")
            )
        return
    everything = builder.known | builder.others
    known = recipe.judge_scenes * (6 if builder.others else 10) // 10
    one, scenes_one = builder.scenes(builder.known, known, 3, judge.SIDE).all(builder.workers)
    two, scenes_two = builder.scenes(everything, max(1, recipe.judge_scenes - known), 5, judge.SIDE).all(
        builder.workers
    )
    order = torch.randperm(len(one) + len(two)).tolist()  # the last tenth is for the temperature
    images, scenes = torch.cat([one, two])[order], [(scenes_one + scenes_two)[i] for i in order]
    labels = sorted({word for word, _ in everything}) + [judge.NONE]
    styles = sorted({style for _, style in builder.known})
    net = judge.Judge(labels, styles, list(BACKGROUNDS))
    judge.train_judge(
        net,
        judge.lessons_of(images, scenes, net),
        steps=recipe.judge_steps,
        seed=recipe.seed,
        work=builder.work,
        device=builder.device,
        batch_size=recipe.judge_batch_size,
        processes=builder.processes,
    )
    if builder.processes.leads:
        fresh = builder.scenes(builder.known, recipe.reference_scenes, 4, judge.SIDE).all(builder.workers)
        judge.save_judge(net, folder, measure_judge(net, *fresh, recipe.seed))
        known, _ = builder.scenes(builder.seen, recipe.reference_scenes, 7, judge.SIDE).all(builder.workers)
        others, told = builder.scenes(builder.seen, max(2, recipe.reference_scenes // 10), 8, judge.SIDE).all(
            builder.workers
        )
        judge.save_reference(net, folder, known, others, [scene.caption for scene in told])


def make_alignment(builder: Builder) -> None:
    recipe, folder = builder.recipe, builder.place("alignment")
    images, scenes = builder.scenes(builder.known, recipe.judge_scenes, 9, judge.SIDE).all(builder.workers)
    captions = [scene.caption for scene in scenes]
    tokenizer = denoiser.train_tokenizer(captions)
    clip = alignment.build_clip(tokenizer)
    if recipe.alignment_steps:
        alignment.train_clip(
            clip,
            images,
            captions,
            tokenizer,
            steps=recipe.alignment_steps,
            seed=recipe.seed,
            work=builder.work,
            device=builder.device,
            batch_size=min(recipe.alignment_batch_size, len(images)),
            processes=builder.processes,
        )
    if builder.processes.leads:
        clip.to("cpu", torch.float16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def make_latents(builder: Builder) -> None:
    """What the denoiser learns from: latents of its scenes, in fp16, beside what the scenes hold."""
    recipe, folder = builder.recipe, builder.place("latents")
    if not builder.processes.leads:
        return
    vae = _made_autoencoder(builder).to(builder.device, memory_format=torch.channels_last)
    weights = _weak_first(builder.start) if builder.start else None
    scenes = builder.scenes(builder.seen, recipe.scenes, 2, pairs=recipe.pairs, weights=weights)
    latents, told = [], []
    for images, part in scenes.chunks(builder.workers):
        latents.append(autoencoder.encode(vae, images, builder.device).half())
        told += part
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"latents": torch.cat(latents).contiguous()}, folder / "latents.safetensors")
    write_text(folder / "captions.json", json.dumps([scene.caption for scene in told]) + "\n")
    words = json.dumps(count_words(told), indent=1, sort_keys=True)
    write_text(folder / "words.json", words + "\n")


def make_denoiser(builder: Builder) -> None:
    recipe, folder = builder.recipe, builder.place("denoiser")
    latents = load_file(builder.place("latents") / "latents.safetensors")["latents"]
    captions = json.loads((builder.place("latents") / "captions.json").read_text())
    tokenizer = denoiser.train_tokenizer(captions)
    unet = denoiser.build_unet(recipe.latent_channels, latents.shape[-1], recipe.unet_channels)
    both = denoiser.TextToNoise(unet, denoiser.build_text_encoder(tokenizer))
    if builder.start is not None:
        earlier = UNet2DConditionModel.from_pretrained(builder.start / "unet", torch_dtype=torch.float32)
        unet.load_state_dict(earlier.state_dict())
        denoiser.start_text_encoder(both.text_encoder, tokenizer, builder.start)
    denoiser.train_denoiser(
        both,
        latents,
        captions,
        tokenizer,
        steps=recipe.steps,
        seed=recipe.seed,
        work=builder.work,
        device=builder.device,
        learning_rate=recipe.learning_rate * (0.7 if builder.start else 1.0),
        batch_size=recipe.batch_size,
        compile_unet=recipe.compile_unet,
        processes=builder.processes,
    )
    if builder.processes.leads:
        both.to("cpu").to(memory_format=torch.contiguous_format)
        pipeline = StableDiffusionPipeline(
            vae=_made_autoencoder(builder),
            text_encoder=both.text_encoder.eval(),
            tokenizer=tokenizer,
            unet=both.unet.eval(),
            scheduler=denoiser.build_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.to("cpu", torch.float16).save_pretrained(folder, safe_serialization=True)
        _write_vocabulary(tokenizer, folder / "tokenizer")


def _made_autoencoder(builder: Builder) -> AutoencoderKL:
    """The first stage's product; not by from_pretrained, which notes the folder it came from."""
    recipe = builder.recipe
    vae = autoencoder.build_autoencoder(recipe.latent_channels, recipe.vae_channels, recipe.size)
    vae.load_state_dict(load_file(builder.place("autoencoder") / WEIGHTS_FILE))
    return vae.eval()


@torch.no_grad()
def _psnr(builder: Builder, vae: AutoencoderKL) -> float:
    """Of 256 scenes through the autoencoder and back, in dB."""
    images, _ = builder.scenes(builder.seen, 256, 10).all(builder.workers)
    pixels = autoencoder.to_pixels(images)
    parts = [vae.decode(vae.encode(part).latent_dist.mean).sample.clamp(-1, 1) for part in pixels.split(32)]
    error = (torch.cat(parts) - pixels).square().mean() / 4  # pixels span 2, not 1
    return round(float(-10 * error.log10()), 2)


def _weak_first(start: Path) -> dict[str, float]:
    """How often each object comes: 1 where the earlier model always draws it, 3 where it never does."""
    measured = start / "quality.json"
    each = json.loads(measured.read_text()).get("objects", {}).get("each", {}) if measured.is_file() else {}
    return {word: 3 - right / 50 for word, right in each.items()}


def _write_vocabulary(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """vocab.json and merges.txt as well, for older readers of CLIP tokenizers."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False) + "\n")
    pairs = (pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]) + "\n")
