"""Captioned scenes composed from drawings: what the autoencoder, the denoiser and the judge learn from."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from kpop.emoji.world import BACKGROUNDS, EMPTY_CAPTIONS, INDIRECT, THINGS, a

KINDS = {thing.word: thing.kind for thing in THINGS}
SYNONYMS = {thing.word: thing.synonyms for thing in THINGS}
FRAMES = ("{}", "{}", "{}", "a photo of {}", "a picture of {}", "an image of {}", "{} emoji")
Drawings = dict[tuple[str, str], Image.Image]


@dataclass(frozen=True)
class Scene:
    """One picture [H, W, 3] uint8, its caption, and what is in it."""

    image: np.ndarray
    caption: str
    words: tuple[str, ...]
    style: str
    background: str


def compose(
    rng: np.random.Generator,
    drawings: Drawings,
    size: int = 128,
    empty: float = 0.1,
    pairs: float = 0.22,
    weights: dict[str, float] | None = None,
) -> Scene:
    """A random scene of no object (share `empty`), two side by side (share `pairs`), or one.

    `weights` says how often an object comes next to others; one that it does not name has weight 1.
    """
    background = str(rng.choice(list(BACKGROUNDS)))
    canvas = _gradient(rng, BACKGROUNDS[background], size)
    styles = sorted({style for _, style in drawings})
    style = str(rng.choice(styles))
    known = sorted(word for word, of in drawings if of == style)
    draw = rng.random()
    count = 0 if draw < empty else 2 if draw < empty + pairs else 1
    often = np.array([(weights or {}).get(word, 1.0) for word in known])
    chosen = rng.choice(known, size=min(count, len(known)), replace=False, p=often / often.sum())
    words = tuple(str(word) for word in chosen)
    for place, word in enumerate(words):
        _paste(rng, canvas, drawings[word, style], place if len(words) == 2 else None)
    return Scene(np.asarray(canvas), _caption(rng, words, style, background), words, style, background)


@dataclass(frozen=True)
class SceneSet(Dataset):
    """`count` scenes, each drawn from (seed, index): any of them can be made alone, by any process.

    shrink: side of the pictures kept, smaller than they are composed; None keeps them as they are.
    how: arguments of `compose`.
    """

    drawings: Drawings = field(repr=False)
    count: int
    seed: tuple[int, ...]
    shrink: int | None = None
    how: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Scene:
        if not 0 <= index < self.count:
            raise IndexError(index)
        scene = compose(np.random.default_rng((*self.seed, index)), self.drawings, **self.how)
        if self.shrink is None or self.shrink >= len(scene.image):
            return scene
        small = Image.fromarray(scene.image).resize((self.shrink, self.shrink), Image.Resampling.LANCZOS)
        return replace(scene, image=np.asarray(small))

    def chunks(self, workers: int, size: int = 512) -> Iterator[tuple[torch.Tensor, list[Scene]]]:
        """In order, pictures uint8 [n, H, W, 3] beside their scenes, which hold no picture any more."""
        workers = workers if self.count > 4 * size else 0
        yield from DataLoader(self, batch_size=size, num_workers=workers, collate_fn=_stacked)

    def all(self, workers: int) -> tuple[torch.Tensor, list[Scene]]:
        """Every scene at once, as `chunks` gives them."""
        images, scenes = zip(*self.chunks(workers), strict=True)
        return torch.cat(images), [scene for part in scenes for scene in part]


def _stacked(scenes: list[Scene]) -> tuple[torch.Tensor, list[Scene]]:
    images = torch.from_numpy(np.stack([scene.image for scene in scenes]))
    return images, [replace(scene, image=scene.image[:0]) for scene in scenes]


def _gradient(rng: np.random.Generator, colour: tuple[int, int, int], size: int) -> Image.Image:
    base = np.asarray(colour, np.float32) + rng.normal(0, 4, 3)
    slope = rng.normal(0, 5, 2)
    across = np.linspace(-1, 1, size, dtype=np.float32)
    shade = across[:, None] * slope[0] + across[None, :] * slope[1]
    return Image.fromarray((base + shade[..., None]).clip(0, 255).astype(np.uint8))


def _paste(rng: np.random.Generator, canvas: Image.Image, drawing: Image.Image, place: int | None) -> None:
    size = canvas.width
    if place is None:
        side, centre_x, jitter = rng.uniform(0.74, 0.9) * size, size / 2, 0.04 * size
    else:
        side, centre_x, jitter = rng.uniform(0.44, 0.5) * size, (0.26, 0.74)[place] * size, 0.02 * size
    side = round(side)
    object_ = drawing.resize((side, side), Image.Resampling.LANCZOS)  # first: turning fewer pixels is faster
    object_ = object_.rotate(rng.uniform(-7, 7), Image.Resampling.BICUBIC, expand=False)
    left = centre_x - side / 2 + rng.uniform(-jitter, jitter)
    top = size / 2 - side / 2 + rng.uniform(-jitter, jitter)
    canvas.paste(object_, (round(left), round(top)), object_)


def _caption(rng: np.random.Generator, words: tuple[str, ...], style: str, background: str) -> str:
    if not words:
        plain = str(rng.choice(EMPTY_CAPTIONS))
        return f"a {background} background" if rng.random() < 0.3 else plain
    names = [_name(rng, word) for word in words]
    text = names[0] if len(names) == 1 else str(rng.choice([" and ", " next to "])).join(names)
    styled = rng.random() < 0.6
    if styled and len(names) == 1 and rng.random() < 0.3:
        text = f"{a(style)} drawing of {text}"
    else:
        text = str(rng.choice(FRAMES)).format(text)
        if styled:
            text += str(rng.choice([f", {style} style", f" in {style} style"]))
    if rng.random() < 0.6:
        text += f" on {a(background)} background"
    return text


def _name(rng: np.random.Generator, word: str) -> str:
    """What a caption calls the object, with article: its word, a synonym, its kind, an indirect phrase."""
    draw = rng.random()
    if word in INDIRECT and draw < 0.25:
        return str(rng.choice(INDIRECT[word]))
    if draw < 0.05:
        return a(KINDS.get(word, word))
    if draw < 0.17 and SYNONYMS.get(word):
        word = str(rng.choice(SYNONYMS[word]))
    return a(word)
