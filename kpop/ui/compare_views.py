"""One or two compare sheets as the page shows them: all pictures, a slider, or one picture under another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape

from ..errors import RunError
from ..kept import Sheet
from .pictures import Layer, blank, blurred, data_uri, enlarge, framed, layer, sheet
from .run_picker import told_apart
from .sheets import FORGED, NONE, counted, unopened
from .studio import Studio
from .words import covered, veil

GRID, SLIDER, HOVER = "All pictures", "Slide between two", "One over the other"
RIVAL = "rival "  # before a variant of the second run
ARROW = " ↔ "
PAIRS = (
    ("original", "sanitized"),
    ("original", "recovered"),
    ("sanitized", "recovered"),
    ("sanitized", f"{RIVAL}sanitized"),
    ("recovered", f"{RIVAL}recovered"),
)


def layers(studio: Studio, drawn: Sequence[Sheet], judged: bool = False) -> dict[str, Layer]:
    """The rows of one sheet, or of two whose runs are told apart: "sanitized", "rival sanitized" and so on.

    judged: with the judge's word for each picture as its caption.
    """
    runs = [studio.run(one.run_id) for one in drawn]
    whose = told_apart(runs) if len(runs) > 1 else [""]
    found: dict[str, Layer] = {}
    for number, (one, run, name) in enumerate(zip(drawn, runs, whose, strict=True)):
        for variant, images in one.images.items():
            if number and variant == "original":
                continue
            shown = layer(variant, images, studio.verdicts(images, run.config) if judged else ())
            if variant == "recovered" and one.key != "own":
                other = "with a forged key" if one.key.startswith(FORGED) else "with another key"
                shown = replace(shown, note="without a key" if one.key == NONE else other)
            if name and variant != "original":
                shown = replace(shown, note=f"{name}: {shown.note}")
            found[f"{RIVAL if number else ''}{variant}"] = shown
    return found


def grid_html(studio: Studio, drawn: Sequence[Sheet]) -> str:
    """Rows models, columns seeds, the judge's word under each picture, its counts below."""
    first, rows = drawn[0], []
    for shown in layers(studio, drawn, judged=True).values():
        cells = [
            framed(image, shown.variant, f"{first.prompt}, {_plain(shown)}, seed {seed}", caption)
            for seed, image, caption in zip(first.seeds, shown.images, shown.captions, strict=True)
        ]
        rows.append((shown, cells))
    grid = sheet(rows, [f"seed {seed}" for seed in first.seeds], f"{first.prompt}: models by seeds")
    runs = [studio.run(one.run_id) for one in drawn]
    counts = "".join(counted(studio, one, run) for one, run in zip(drawn, runs, strict=True))
    shut = "".join(
        f'<p class="sum">{note}</p>' for note in map(unopened, runs, [one.images for one in drawn])
    )
    return veiled(runs, [first.prompt], grid) + counts + shut


def _plain(shown: Layer) -> str:
    return shown.variant if ":" not in shown.note else f"{shown.variant} by {shown.note.split(':')[0]}"


def pair_choices(variants: Sequence[str]) -> list[tuple[str, str]]:
    """(label, value) of the pairs that two-picture views offer; variants: keys of `layers`."""
    told = {variant: variant.removeprefix(RIVAL).capitalize() for variant in variants}
    told |= {variant: f"the other’s {told[variant]}" for variant in variants if variant.startswith(RIVAL)}
    both = [pair for pair in PAIRS if set(pair) <= set(variants)]
    return [(f"{told[left]}{ARROW}{told[right]}", f"{left}|{right}") for left, right in both]


def pair_in(value: str | None, variants: Sequence[str]) -> str:
    """The pair itself where the sheet has it, else the first there is."""
    offered = [pair for _, pair in pair_choices(variants)]
    return value if value in offered else offered[0]


def slider_value(
    studio: Studio, drawn: Sequence[Sheet] | None, pair: str | None, seed: str | None, bare: bool = False
) -> tuple:
    """Two pictures of one seed, and whether one of them is blurred; bare: as they are.

    Raises RunError before anything is drawn.
    """
    both = _pair(studio, drawn, pair)
    classes = "" if bare else veil([studio.run(one.run_id) for one in drawn], [drawn[0].prompt])
    seeds = [f"{value}" for value in drawn[0].seeds]
    at = seeds.index(seed) if seed in seeds else 0
    hidden = [covered(side.variant, classes) for side in both]
    pictures = [enlarge(side.images[at], 512) for side in both]
    shown = [blurred(one) if hide else one for one, hide in zip(pictures, hidden, strict=True)]
    return (shown[0], shown[1]), any(hidden)


def hover_html(studio: Studio, drawn: Sequence[Sheet] | None, pair: str | None) -> str:
    """For every seed the right picture of the pair; the left one shows while it is pointed at or held."""
    left, right = _pair(studio, drawn, pair)
    cells = []
    for seed, below, above in zip(drawn[0].seeds, right.images, left.images, strict=True):
        alt = f"{drawn[0].prompt}, seed {seed}"
        cells.append(
            f'<figure class="pic {right.variant} over-{left.variant}"><button type="button" class="flip" '
            f'aria-label="{escape(alt, quote=True)}: hold to see {left.variant}">'
            f'<img src="{data_uri(below)}" alt="{escape(alt, quote=True)}, {right.variant}">'
            f'<img class="over {left.variant}" src="{data_uri(above)}" alt="">'
            f"</button><figcaption>seed {seed}</figcaption></figure>"
        )
    told = (
        f"You see <b class='{right.variant}'>{right.title}</b>; point at a picture, or hold it, "
        f"to see <b class='{left.variant}'>{left.title}</b>."
    )
    wall = f'<div class="wall flips">{"".join(cells)}</div>'
    runs = [studio.run(one.run_id) for one in drawn]
    return f'<p class="sum first">{told}</p>{veiled(runs, [drawn[0].prompt], wall)}'


def veiled(runs: Sequence, prompts: Sequence[str], html: str) -> str:
    """HTML whose pictures are blurred until they are pressed, where runs or prompts are sensitive."""
    classes = veil(runs, prompts)
    return f'<div class="{classes}">{html}</div>' if classes else html


def _pair(studio: Studio, drawn: Sequence[Sheet] | None, pair: str | None) -> tuple[Layer, Layer]:
    if not drawn:
        raise RunError("Draw pictures first.")
    found = layers(studio, drawn)
    left, right = pair_in(pair, list(found)).split("|")
    return found[left], found[right]


def skeleton(variants: Sequence[str], seeds: Sequence[int]) -> str:
    """The grid's final size before its pictures are there."""
    rows = [(layer(variant), [blank("…", True) for _ in seeds]) for variant in variants]
    return sheet(rows, [f"seed {seed}" for seed in seeds], "drawing")
