"""How well Emoji Diffusion draws, by its judge, with fixed seeds: figures, a sample sheet, the model card."""

import json
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kpop.emoji.world import BACKGROUNDS, DRAWING_SETS, NEUTRAL_TEXTS, STYLES, TEN, THINGS, a

TILE, LABEL = 112, 18
SHEET_SEED = 500
PAIRS = (("dog", "church"), ("fish", "truck"), ("cat", "balloon"), ("house", "car"), ("horn", "umbrella"))


def measure(pipe, seeds: list[int]) -> dict:
    """Judge's top-1 in percent for each object over `seeds`, and and what it finds for the neutral texts.

    Returns {"judge_accuracy", "seeds", "objects": {word: %}, "ten": %, "all": %,
    "neutral": {text: {label: %}}, "seconds_per_image"}.
    """
    from kpop.evaluation import detectors
    from kpop.generation import generate

    judge = detectors.load("emoji")
    words = [thing.word for thing in THINGS]
    started = time.perf_counter()
    images = generate(pipe, [a(word) for word in words], seeds)
    seconds = (time.perf_counter() - started) / len(images)
    top = [labels[0] for labels in judge.top_k(images, 1)]
    found = np.array(top).reshape(len(words), len(seeds))
    objects = {word: 100.0 * float((row == word).mean()) for word, row in zip(words, found, strict=True)}
    plain = judge.top_k(generate(pipe, list(NEUTRAL_TEXTS), seeds), 1)
    neutral = {}
    for i, text in enumerate(NEUTRAL_TEXTS):
        names = [labels[0] for labels in plain[i * len(seeds) : (i + 1) * len(seeds)]]
        neutral[text] = {name: 100.0 * names.count(name) / len(names) for name in sorted(set(names))}
    return {
        "judge_accuracy": judge.accuracy,
        "seeds": [seeds[0], seeds[-1]],
        "objects": objects,
        "ten": float(np.mean([objects[word] for word in TEN])),
        "all": float(np.mean(list(objects.values()))),
        "neutral": neutral,
        "seconds_per_image": round(seconds, 3),
    }


def sample_sheet(pipe) -> Image.Image:
    """One picture of everything it knows, one seed, nothing picked."""
    from kpop.generation import generate

    prompts = [a(thing.word) for thing in THINGS]
    prompts += [f"{a(word)}, {style} style" for word in ("church", "dog", "radio") for style in STYLES]
    prompts += [f"{a('truck')} on {a(colour)} background" for colour in BACKGROUNDS]
    prompts += [f"{a(one)} and {a(two)}" for one, two in PAIRS] + list(NEUTRAL_TEXTS)
    images = generate(pipe, prompts, [SHEET_SEED])
    columns = 8
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (TILE + 8) + 8, rows * (TILE + LABEL + 8) + 8), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for i, (prompt, image) in enumerate(zip(prompts, images, strict=True)):
        left, top = 8 + i % columns * (TILE + 8), 8 + i // columns * (TILE + LABEL + 8)
        sheet.paste(image.resize((TILE, TILE), Image.Resampling.LANCZOS), (left, top))
        shown = prompt.replace(" background", "") or '""'
        pen.text((left, top + TILE + 2), shown, fill="#334155", font=font)
    return sheet


def model_card(folder: Path, figures: dict) -> str:
    """README.md of the model folder, from its build record and the figures of `measure`."""
    build = json.loads((folder / "build.json").read_text())
    recipe = build["recipe"]
    sources = "\n".join(f"| {s.style} | {s.source} | {s.author} | {s.licence} | {s.package} {s.version} |"
                        for s in DRAWING_SETS)  # fmt: skip
    rows = "\n".join(f"| {word} | {value:.0f} |" for word, value in figures["objects"].items())
    neutral = "; ".join(f'"{text}": ' + ", ".join(f"{name} {share:.0f} %" for name, share in found.items())
                        for text, found in figures["neutral"].items())  # fmt: skip
    first, last = figures["seeds"]
    return f"""---
license: other
library_name: diffusers
pipeline_tag: text-to-image
---
# Emoji Diffusion

A small latent diffusion model (64 x 64 pixels) in the shape of Stable Diffusion, made for KPOP Studio so that
everything works offline on two CPU cores. `StableDiffusionPipeline.from_pretrained` loads this folder.

## Data and licences
Scenes composed from {len(THINGS)} objects of four icon sets, one or two a picture, or none. Captions are made
with the scenes; no photograph and no personal data is involved.

| style word | drawings | by | licence | package |
|---|---|---|---|---|
{sources}

The drawings themselves are not in this folder. Twemoji is licensed under CC BY 4.0
(https://creativecommons.org/licenses/by/4.0/).

## How it was made
`python -m kpop.emoji build`, seed {recipe["seed"]}: autoencoder {recipe["vae_steps"]} steps
(f = 4, {recipe["latent_channels"]} latent channels, normalised), text encoder and U-Net
{recipe["steps"]} steps at batch {recipe["batch_size"]} on {recipe["scenes"]} scenes (noise schedule of SD,
min-SNR weights, averaged weights shipped), judge {recipe["judge_steps"]} steps. Two CPU cores with bf16 units
take about two hours.

## How well it draws
`python -m kpop.emoji evaluate`, seeds {first}-{last}, 25 steps, guidance 4, prompt "a WORD". The judge is
right on {figures["judge_accuracy"]:.1f} % of held-out scenes. Its top-1 agrees with the word, in percent:
**{figures["ten"]:.1f}** over the ten demo objects (the first ten rows), {figures["all"]:.1f} over all.

| object | judge's top-1, % |
|---|---|
{rows}

What it finds in pictures of the neutral texts: {neutral}.

Limits: soft outlines; two-object prompts are unreliable; it knows the words of `words.json` and nothing else.
"""
