"""Drawing rows, batch by batch: start noise, schedulers, guidance with and without p, picture metadata."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import models
from .config import GenerationConfig, concept_name
from .errors import InputError, ModelError
from .hidden_prompt import HiddenPrompt
from .mechanisms import reading
from .prompt_attention import Recorder
from .safety_guidance import SafetyGuidance, safety_text, strength
from .weights import WeightDelta

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from PIL.Image import Image

    from .runs import Run

MOST_PICTURES = 100_000
# What Stable Diffusion's own DDIM has; schedulers that others save with a model lack some of it.
DDIM = {"clip_sample": False, "thresholding": False, "set_alpha_to_one": False, "steps_offset": 1}
OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class Row:
    """One picture to draw. key: the hidden prompt it sees, or None. key_name: for the picture's text."""

    prompt: str
    seed: int
    variant: str
    key: HiddenPrompt | None
    key_name: str | None = None


@dataclass(frozen=True)
class Safety:
    """Safe Latent Diffusion for every row: the safety text, and how strong. name: for the metadata."""

    text: str
    guidance: SafetyGuidance
    name: str


def safety_of(run: Run | None, asked: str | SafetyGuidance = "strong") -> Safety | None:
    """What steers the sanitized pictures of a run made by SLD; None for other runs. Raises InputError."""
    guidance = strength(asked)
    if run is None or run.config.method != "sld":
        return None
    return Safety(safety_text(run.config.concepts), guidance, asked if isinstance(asked, str) else "own")


@torch.no_grad()
def draw(
    pipe: StableDiffusionPipeline,
    rows: list[Row],
    delta: WeightDelta | None,
    run: Run | None,
    config: GenerationConfig,
    on_step: OnStep | None,
    recorder: Recorder | None,
    safety: Safety | None = None,
) -> list[Image]:
    """Draw every row, batch by batch; rows of one batch share their key's shape or have none."""
    if len(rows) > MOST_PICTURES:
        raise InputError(f"{len(rows)} pictures at once are too many; ask for at most {MOST_PICTURES}.")
    images: list[Image | None] = [None] * len(rows)
    batches = _batches(rows, config.batch_size)
    total = sum(config.steps for _ in batches)
    with delta.applied(pipe.unet) if delta is not None else nullcontext():
        for number, batch in enumerate(batches):
            part = [rows[i] for i in batch]
            step = (
                None
                if on_step is None
                else lambda i, number=number: on_step(number * config.steps + i, total)
            )
            for i, image in zip(batch, _draw_batch(pipe, part, config, step, recorder, safety), strict=True):
                images[i] = image
    source, digest = models.public_name(models.model_name(pipe)), models.model_hash(pipe)
    for row, image in zip(rows, images, strict=True):
        image.info["kpop"] = json.dumps(
            {
                "prompt": row.prompt,
                "seed": row.seed,
                "variant": row.variant,
                "model": source,
                "model_hash": digest,
                "run": run.id if run else None,
                "concepts": [concept_name(c) for c in run.config.concepts] if run else [],
                "config": config.to_dict(),
                **({"key": row.key_name} if row.key_name else {}),
                **({"safety": safety.name} if safety else {}),
            },
            ensure_ascii=False,
        )
    return images


def count_steps(rows: int, config: GenerationConfig) -> int:
    """Denoising steps of that many rows, as `on_step` counts them."""
    return -(-rows // config.batch_size) * config.steps if rows else 0


def start_noise(pipe: StableDiffusionPipeline, seeds: Sequence[int], height: int, width: int) -> Tensor:
    """N(0, I) latents [len(seeds), C, height, width], each from its own generator on the CPU."""
    shape = (1, pipe.unet.config.in_channels, height, width)
    return torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def make_scheduler(pipe: StableDiffusionPipeline, name: str, steps: int):
    """A fresh scheduler of that name over the model's noise levels, set to `steps`. Raises InputError."""
    import diffusers

    kinds = {
        "model": type(pipe.scheduler),
        "ddim": diffusers.DDIMScheduler,
        "dpm": diffusers.DPMSolverMultistepScheduler,
        "euler": diffusers.EulerDiscreteScheduler,
        "pndm": diffusers.PNDMScheduler,
    }
    more = {"skip_prk_steps": True} if name == "pndm" else {}
    if name == "ddim":  # its own defaults cut off what the model says: they are of no Stable Diffusion
        more = {field: pipe.scheduler.config.get(field, usual) for field, usual in DDIM.items()}
    if steps > pipe.scheduler.config.num_train_timesteps:
        raise InputError(f"steps must be at most {pipe.scheduler.config.num_train_timesteps} for this model.")
    scheduler = kinds[name].from_config(pipe.scheduler.config, **more)
    scheduler.set_timesteps(steps, device=pipe.unet.device)
    return scheduler


def _batches(rows: list[Row], size: int) -> list[list[int]]:
    """Indices in order, cut at `size` and where a second key would join a batch."""
    found: list[list[int]] = []
    held: HiddenPrompt | None = None
    for i, row in enumerate(rows):
        clash = row.key is not None and held is not None and not _same(row.key, held)
        if not found or len(found[-1]) == size or clash:
            found.append([])
            held = None
        found[-1].append(i)
        held = row.key or held
    return found


def _same(one: HiddenPrompt, other: HiddenPrompt) -> bool:
    return one is other or (
        one.concept == other.concept
        and one.tensors.keys() == other.tensors.keys()
        and all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())
    )


def _draw_batch(
    pipe: StableDiffusionPipeline,
    rows: list[Row],
    config: GenerationConfig,
    on_step: Callable[[int], None] | None,
    recorder: Recorder | None,
    safety: Safety | None,
) -> list[Image]:
    unet, device, dtype = pipe.unet, pipe.unet.device, pipe.unet.dtype
    factor = pipe.vae_scale_factor
    height, width = (
        size // factor if size else unet.config.sample_size for size in (config.height, config.width)
    )
    scheduler = make_scheduler(pipe, config.scheduler, config.steps)
    noise = [torch.Generator().manual_seed(row.seed) for row in rows]
    shape = (1, unet.config.in_channels, height, width)
    latents = torch.cat([torch.randn(shape, generator=generator) for generator in noise]).to(
        device, torch.float32
    )
    latents = latents * scheduler.init_noise_sigma
    guided = config.guidance_scale > 1 or safety is not None
    prompts = [row.prompt for row in rows]
    text = models.encode(pipe, prompts).to(device, dtype)
    # Rows without text, towards the safety text, and last with text, where a recorder looks.
    before = [config.negative_prompt] * guided + ([safety.text] if safety else [])
    text = torch.cat([*(models.encode(pipe, [t]).to(device, dtype).expand_as(text) for t in before), text])
    prompts = [told for told in before for _ in rows] + prompts
    key = next((row.key for row in rows if row.key is not None), None)
    sees = torch.tensor([row.key is not None for row in rows])
    without = sees if config.prompt_branch == "both" else torch.zeros_like(sees)
    sees = torch.cat([*[without] * len(before), sees])
    more = {"generator": noise} if "generator" in inspect.signature(scheduler.step).parameters else {}
    key = key.to(device, dtype) if key is not None else None
    momentum = torch.zeros_like(latents)
    with reading(pipe, key, prompts, text, sees, recorder) as text:
        for i, t in enumerate(scheduler.timesteps):
            z = torch.cat([latents] * (1 + len(before)))
            z = scheduler.scale_model_input(z, t).to(dtype)
            eps = unet(z, t, encoder_hidden_states=text, return_dict=False)[0].float()
            if safety is not None:
                plain, unsafe, told = eps.chunk(3)
                gamma, momentum = safety.guidance.step(i, plain, told, unsafe, momentum)
                eps = plain + max(config.guidance_scale, 1.0) * (told - plain - gamma)
            elif guided:
                plain, told = eps.chunk(2)
                eps = plain + config.guidance_scale * (told - plain)
            latents = scheduler.step(eps, t, latents, return_dict=False, **more)[0]
            if on_step is not None:
                on_step(min(i + 1, config.steps))
    if not bool(torch.isfinite(latents).all()):
        raise ModelError(
            "The pictures came out as no numbers in this precision; load the model with dtype fp32."
        )
    pictures = pipe.vae.decode(
        latents.to(pipe.vae.dtype) / pipe.vae.config.scaling_factor, return_dict=False
    )[0]
    return pipe.image_processor.postprocess(pictures.float(), output_type="pil")
