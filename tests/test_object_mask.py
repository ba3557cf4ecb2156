"""The object's mask on what the embedded model learns from, composed scenes, and on what it draws."""

import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops

from kpop.attribution_measures import find_object
from kpop.emoji.drawings import render, svg_of
from kpop.emoji.scenes import compose
from kpop.emoji.world import BACKGROUNDS
from kpop.runs import EXAMPLE

SIDE = 64
BODIES = {  # several colours, thin parts, holes; in the manner of the icon sets
    "church": """<path d="M32 4v10l20 16v30H12V30l20-16" fill="#8d4a32"/>
        <path d="M30 2h4v14h-4z" fill="#3b2a22"/><path d="M26 44h12v16H26z" fill="#2d1c12"/>
        <circle cx="32" cy="32" r="5" fill="#2f6f9f"/>""",
    "sun": """<circle cx="32" cy="32" r="16" fill="#d9480f"/>
        <path d="M30 2h4v12h-4zM30 50h4v12h-4zM2 30h12v4H2zM50 30h12v4H50z" fill="#c92a2a"/>""",
    "wheel": """<circle cx="32" cy="32" r="24" fill="none" stroke="#212529" stroke-width="9"/>
        <circle cx="32" cy="32" r="7" fill="#343a40"/>""",
}


@pytest.fixture(scope="module")
def drawings():
    icons = {"width": 64, "height": 64, "icons": {name: {"body": body} for name, body in BODIES.items()}}
    return {(name, "own"): render(svg_of(icons, name), 128) for name in BODIES}


def unlike(picture: Image.Image) -> Image.Image:
    """The same shape in other colours."""
    red, green, blue, alpha = picture.split()
    return Image.merge("RGBA", [*map(ImageChops.invert, (red, green, blue)), alpha])


def composed(drawings, seed, **how):
    """A scene, and its object: what differs from the same scene of drawings in other colours."""
    other = {name: unlike(picture) for name, picture in drawings.items()}
    pair = [compose(np.random.default_rng(seed), some, size=128, **how) for some in (drawings, other)]
    apart = np.abs(np.subtract(*(scene.image.astype(int) for scene in pair))).max(-1)
    inside = torch.from_numpy(apart > 30).float().reshape(SIDE, 2, SIDE, 2).mean((1, 3)) >= 0.5
    return pair[0], inside


@pytest.mark.parametrize("pairs", [0.0, 1.0])
def test_the_mask_is_the_object_of_scenes_as_the_model_learns_from(drawings, pairs):
    backgrounds, found = set(), []
    for seed in range(24):
        scene, inside = composed(drawings, seed, empty=0.0, pairs=pairs)
        mask = find_object(Image.fromarray(scene.image), (SIDE, SIDE))
        assert mask is not None, (seed, scene.caption)
        found.append(float((mask & inside).sum()) / float((mask | inside).sum()))
        backgrounds.add(scene.background)
    assert backgrounds == set(BACKGROUNDS) and min(found) > 0.95


def test_empty_scenes_hold_no_object(drawings):
    for seed in range(16):
        scene, _ = composed(drawings, seed, empty=1.0)
        assert find_object(Image.fromarray(scene.image), (SIDE, SIDE)) is None, (seed, scene.background)


def test_where_the_judge_sees_the_object_in_a_decoded_picture_the_mask_finds_one():
    (folder,) = (EXAMPLE / "compare").iterdir()
    told = json.loads((folder / "words.json").read_text())
    seen = [
        (variant, seed) for variant in told for seed, word in enumerate(told[variant]) if word == "church"
    ]
    assert len([variant for variant, _ in seen if variant == "original"]) >= 3
    for variant, seed in seen:
        with Image.open(folder / f"{variant}_{seed}.png") as picture:
            mask = find_object(picture, (SIDE, SIDE))
        assert mask is not None and 0.2 < float(mask.float().mean()) < 0.7, (variant, seed)
        assert bool(mask[28:36, 28:36].float().mean() > 0.5), (variant, seed)  # the model draws in the middle
