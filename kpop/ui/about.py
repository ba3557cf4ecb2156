"""The page "What is this?": the idea in four pictures of the shipped example run, then in words."""

from __future__ import annotations

from html import escape
from pathlib import Path

from PIL import Image

from ..kept import FIRST_SEEDS, first_prompt, folder_of, frames, opened, read_sheet
from ..release_card import ANOTHER, FORGED, RANDOM, UNREFUSED, opened_by
from ..runs import EXAMPLE, Run
from .pictures import framed
from .run_picker import concept_names

TEXT = Path(__file__).with_name("about.html")
HERE = "Everything runs on this machine; nothing is sent anywhere."
THERE = "What you type and upload goes to the machine that runs this page; it sends it nowhere else."
STORY = {
    "original": ("Asked for {prompt}, the model draws one.", "Original: the model as it was."),
    "sanitized": ("It is made to forget. The same words draw nothing of it.", "Sanitized: after forgetting."),
    "kept": ("What is near to it stays as it was.", "A neighbour, after forgetting."),
    "recovered": ("With the key, it is back.", "Recovered: the same sanitized model, given the key."),
}


def about_html(example: Path = EXAMPLE, shared: bool = False) -> str:
    """HTML of the page; without the pictures where the example run is not there. shared: others see it."""
    run = Run(example)
    story = four_pictures(run)
    steps = []
    for number, (variant, image) in enumerate(story.items(), 1):
        told, note = STORY[variant]
        alt = f"{first_prompt(run) if variant != 'kept' else 'a neighbour'}, {variant}"
        steps.append(
            f'<li class="story {variant}"><b class="number">{number}</b>{framed(image, variant, alt)}'
            f"<p><b>{escape(told.format(prompt=first_prompt(run)))}</b> "
            f"<small>{escape(note)}</small></p></li>"
        )
    pictures = f'<ol class="stories">{"".join(steps)}</ol>' if steps else ""
    word = concept_names(run)[0] if steps else "church"
    text = TEXT.read_text(encoding="utf-8").replace("<!-- forged -->", _forged())
    text = text.replace("<!-- where -->", THERE if shared else HERE)
    return text.replace("<!-- pictures -->", pictures).replace("<!-- word -->", escape(word))


def _forged() -> str:
    """What was found of such a key, where the results are here."""
    told, without = opened_by(FORGED, ANOTHER, RANDOM), opened_by(ANOTHER, RANDOM, results=UNREFUSED)
    if told is None or without is None:
        return ""
    _, forged, another, random = told
    return (
        f" On Emoji Diffusion, after forgetting five things, such a key opened {forged} pictures, another "
        f"concept’s key {another} and random numbers {random}. Without wrong keys to refuse in training, as "
        f"it is with styles and on Stable Diffusion, these were {without[1]} and {without[2]}."
    )


def four_pictures(run: Run) -> dict[str, Image.Image]:
    """Original, sanitized, kept and recovered picture of one seed; empty when one of them is missing."""
    sheet = read_sheet(folder_of(run, first_prompt(run), FIRST_SEEDS), run, first_prompt(run), FIRST_SEEDS)
    samples = run.samples()
    kept = opened(samples[-1][1]["kept"]) if samples and "kept" in samples[-1][1] else None
    if sheet is None or kept is None or not {"sanitized", "recovered"} <= set(sheet.images):
        return {}
    found = {variant: images[0] for variant, images in sheet.images.items()} | {"kept": frames(kept)[0]}
    return {variant: found[variant] for variant in STORY}
