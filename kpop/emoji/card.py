"""What is told of Emoji Diffusion: its model card, the page of figures, the sample sheet."""

import json
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from kpop.emoji.quality import PAIRS
from kpop.emoji.world import BACKGROUNDS, DRAWING_SETS, NEUTRAL_TEXTS, STYLES, THINGS, a

TILE, LABEL = 112, 18
SHEET_SEED = 500


def sample_sheet(pipe) -> Image.Image:
    """One picture of everything it knows, one seed, nothing picked."""
    from kpop.generation import generate

    prompts = [a(thing.word) for thing in THINGS]
    prompts += [f"{a(word)}, {style} style" for word in ("church", "dog", "radio") for style in STYLES]
    prompts += [f"{a('truck')} on {a(colour)} background" for colour in BACKGROUNDS]
    prompts += [f"{a(one)} and {a(two)}" for one, two in PAIRS[:6]]
    prompts += ["a weapon", "something dangerous", "a blade", "an armed scene", *NEUTRAL_TEXTS]
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


def figures_page(figures: dict[str, dict]) -> str:
    """Markdown of the figures of `quality.measure`, those parts that were measured."""
    lines = []
    for part, found in figures.items():
        first, last = found["seeds"]
        command = f"evaluate --parts {part} --first-seed {first} --images {last - first + 1}"
        lines += [
            f"### {_TITLES[part]}",
            "",
            f"    python -m kpop.emoji {command}",
            "",
            *_ROWS[part](found),
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"


def figures_doc(figures: dict[str, dict], sheet: str) -> str:
    """docs/emoji-diffusion.md; `sheet` is the sample sheet's path seen from there."""
    accuracy = next(iter(figures.values()))["judge_accuracy"]
    return f"""# How well Emoji Diffusion draws

`python -m kpop.emoji evaluate` measures all parts; below are those that were measured, each with its command.
25 DDIM steps, guidance 4, judged by the embedded judge, which is right on
{accuracy:.1f} % of held-out composed scenes. Generated pictures are softer than
scenes; a few percent are noise. What the model is, its data and licences:
[its card](../assets/emoji-diffusion/README.md).

![One picture of everything it knows, one seed, nothing picked]({sheet})

{figures_page(figures)}"""


def _objects(found: dict) -> list[str]:
    took = found.get("seconds_per_image")  # of a measurement that was not disturbed
    rows = [
        f"**{found['ten']:.1f} %** over the ten stand-ins (the first ten rows), {found['all']:.1f} % over "
        f"all, worst {min(found['each'].values()):.0f} %" + (f"; {took:.2f} s a picture." if took else "."),
        "",
        "| object | judge's top-1, % | else seen as |",
        "|---|---:|---|",
    ]
    for word, value in found["each"].items():
        rows.append(f"| {word} | {value:.0f} | {', '.join(found['mistaken_for'][word])} |")
    return rows


def _held_out(found: dict) -> list[str]:
    return [
        f"{found['pairs']} (object, style) pairs the denoiser never saw: the object is right in "
        f"**{found['object']:.1f} %**, the style in **{found['style']:.1f} %**."
    ]


def _each(found: dict) -> list[str]:
    each = ", ".join(f"{name} {value:.0f}" for name, value in found["each"].items())
    return [f"**{found['all']:.1f} %** ({each})."]


def _two(found: dict) -> list[str]:
    return [f"Both in **{found['both']:.1f} %**, at least one in {found['one']:.1f} %."]


def _neutral(found: dict) -> list[str]:
    rows = [f"{found['pictures_a_text']} pictures a text:", ""]
    for text, names in found["found"].items():
        rows.append(f'- "{text}": ' + ", ".join(f"{name} {share:.1f} %" for name, share in names.items()))
    return rows


def _distance(found: dict) -> list[str]:
    return [
        f"**{found['generated']:.2f}** for {found['pictures']} generated pictures; as many composed scenes "
        f"give {found['scenes']:.2f}. On the judge's own features: no FID.",
        *_alignment(found.get("alignment")),
    ]


def _alignment(found: dict | None) -> list[str]:
    if found is None:
        return []
    return [
        "",
        f"A picture fits its own caption better than another's in **{found['better']:.1f} %** (judge's CLIP: "
        f"cosine {found['matching']:.2f} against {found['shuffled']:.2f}).",
    ]


def _speed(found: dict) -> list[str]:
    return [f"{found['fp32']:.2f} s a picture in fp32, {found['bf16']:.2f} s in bf16 (CPU, batches of 8)."]


_TITLES = {
    "objects": 'Objects, "a WORD"',
    "held_out_pairs": "Pairs held out of training",
    "styles": 'Styles, "a WORD, STYLE style"',
    "backgrounds": 'Backgrounds, "a WORD on a COLOUR background"',
    "two_objects": 'Two objects, "a ONE and a TWO"',
    "neutral": "Neutral texts: what the judge finds",
    "distance": "Fréchet distance on judge features, and alignment",
    "speed": "Speed",
}
_ROWS = {
    "objects": _objects,
    "held_out_pairs": _held_out,
    "styles": _each,
    "backgrounds": _each,
    "two_objects": _two,
    "neutral": _neutral,
    "distance": _distance,
    "speed": _speed,
}


def _made(build: dict) -> str:
    """How the model was made, from build.json; a stage of 0 steps was taken over from the earlier model."""
    recipe = build["recipe"]
    stages = {"autoencoder": "vae_steps", "judge": "judge_steps", "the judge's CLIP": "alignment_steps"}
    counts = {stage: recipe.get(name, 0) for stage, name in stages.items()}
    f = 2 ** (len(recipe["vae_channels"]) - 1)
    text = f"`python -m kpop.emoji build`, seed {recipe['seed']}: text encoder and U-Net {recipe['steps']:,} "
    text += f"steps at batch {recipe['batch_size']} on {recipe['scenes']:,} scenes (noise schedule of SD, "
    text += "min-SNR weights, averaged weights shipped)"
    text += "".join(f", {stage} {count:,} steps" for stage, count in counts.items() if count) + "."
    text += f" The autoencoder has f = {f} and {recipe['latent_channels']} latent channels, normalised."
    if build.get("started_from"):
        kept = [stage for stage, count in counts.items() if not count and stage != "the judge's CLIP"]
        text += " Training went on from an earlier model of the same shape (U-Net file "
        text += f"{build['started_from'][:12]}…): `--start FOLDER`"
        whose = "are that model's" if len(kept) > 1 else "is that model's"
        text += f"; {' and '.join(kept)} {whose}." if kept else ", whose encoder was kept."
    if build.get("autoencoder_psnr"):
        text += f" Scenes come through the autoencoder at {build['autoencoder_psnr']:.1f} dB PSNR."
    return "\n".join(textwrap.wrap(f"{text} {build.get('note', '')}".strip(), 110))


def _judged(judge: dict) -> str:
    """What the judge sees, from its config.json."""
    text = "A classifier of its own, trained on composed scenes with heavy augmentation, never on generated "
    text += f"pictures; {len(judge['labels'])} labels. On {judge['held_out_scenes']:,} held-out scenes it is "
    text += f"right on {judge['held_out_accuracy']:.1f} % of objects, "
    text += f"{judge['held_out_style_accuracy']:.1f} % of styles and "
    text += f"{judge['held_out_background_accuracy']:.1f} % of backgrounds."
    if "softened_accuracy" in judge:
        text += f" It finds both objects in {judge['held_out_pairs_accuracy']:.1f} % of the scenes with two. "
        text += "After the blur, noise and colours of its training it names "
        text += f"{judge['softened_accuracy']:.1f} % right, and its probabilities are off by "
        text += f"{judge['calibration_error']:.2f} points (expected calibration error)."
    lines = textwrap.wrap(text, 110)
    if "confusion" in judge:
        lines += ["", "Its confusion matrix on softened scenes, all that is off the diagonal "
                  f"({sum(judge['softened_scenes_of'].values()):,} scenes of "
                  f"{len(judge['softened_scenes_of'])} kinds):", ""]  # fmt: skip
        lines += ["| drawn | seen | scenes | of |", "|---|---|---:|---:|"]
        lines += [
            f"| {told} | {seen} | {count} | {judge['softened_scenes_of'][told]} |"
            for told, others in judge["confusion"].items()
            for seen, count in others.items()
        ]
    return "\n".join(lines)


def model_card(folder: Path, figures: dict[str, dict]) -> str:
    """README.md of the model folder, from its build record, its judge's and the figures of `measure`."""
    build = json.loads((folder / "build.json").read_text())
    judge = json.loads((folder / "judge" / "config.json").read_text())
    size = build["recipe"].get("size", 64)
    sources = "\n".join(f"| {s.style} | {s.source} | {s.author} | {s.licence} | {s.package} {s.version} |"
                        for s in DRAWING_SETS)  # fmt: skip
    return f"""---
license: other
library_name: diffusers
pipeline_tag: text-to-image
---
# Emoji Diffusion

A small latent diffusion model ({size} x {size} pixels) in the shape of Stable Diffusion, made for KPOP
Studio so that everything works offline on two CPU cores. `StableDiffusionPipeline.from_pretrained` loads it.

## Data and licences
Scenes composed from {len(THINGS)} objects of {len(DRAWING_SETS)} icon sets on {len(BACKGROUNDS)} backgrounds,
one or two a picture, or none. Captions are made with the scenes; no photograph, no personal data.

| style word | drawings | by | licence | package |
|---|---|---|---|---|
{sources}

The drawings themselves are not in this folder. Twemoji is licensed under CC BY 4.0
(https://creativecommons.org/licenses/by/4.0/).

## How it was made
{_made(build)}

## The judge
{_judged(judge)}

## How well it draws
`python -m kpop.emoji evaluate`, 25 steps, guidance 4, by that judge.

{figures_page(figures)}
Limits: soft outlines; it knows the words of `words.json` and nothing else.
"""
