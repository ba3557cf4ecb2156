"""Numbers about attention maps: focus, pull, dispersion, agreement, and the object they are measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from PIL.Image import Image

    from .attribution import Attribution

MASK_DISTANCE = 24  # of 255: how far a pixel leaves the background before it counts as the object
FINE = 8  # points a side of a layer's own map: on fewer an object is a blot wherever it is
PROBES = 24  # border points whose triples are tried as the background
OBJECT_AREA = 0.02, 0.9  # of the picture: less is a speck, more is a background that was not plain


def dispersion(maps: torch.Tensor) -> torch.Tensor:
    """Normalized entropy of each map, [..., H, W] to [...]: 0 is one point, 1 is an even spread."""
    flat = maps.flatten(-2).double()
    share = flat / flat.sum(-1, keepdim=True).clamp_min(1e-30)
    return (torch.special.entr(share).sum(-1) / np.log(flat.shape[-1])).float()


def correlation(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Pearson correlation map by map, [..., H, W] twice to [...]; 0 where a map is flat."""
    a, b = (maps.flatten(-2).double() for maps in (first, second))
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    scale = (a.square().sum(-1) * b.square().sum(-1)).sqrt()
    return torch.where(scale > 1e-20, (a * b).sum(-1) / scale.clamp_min(1e-20), 0.0).float()


def focus(maps: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Share of each map's mass inside a mask, [..., H, W] and bool [H, W] to [...]; its area is chance."""
    return (maps * mask).sum((-2, -1)) / maps.sum((-2, -1)).clamp_min(1e-30)


def pull(maps: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """How much more attention a point inside `place` gets than one outside: (in - out) / (in + out).

    [..., H, W] and bool of a shape that broadcasts to it, to [...]: 0 is chance whatever the area, 1 is all
    inside, -1 is none. Focus is plainer to read but its chance level is the area.
    """
    place = place.expand_as(maps)
    inside = (maps * place).sum((-2, -1)) / place.sum((-2, -1)).clamp_min(1)
    outside = (maps * ~place).sum((-2, -1)) / (~place).sum((-2, -1)).clamp_min(1)
    return (inside - outside) / (inside + outside).clamp_min(1e-30)


def object_mask(image: Image, size: tuple[int, int], distance: float = MASK_DISTANCE) -> torch.Tensor:
    """bool [H, W]: where a picture leaves the plane fitted to its border, for pictures on a plain background.

    size: (H, W) of the maps it is for. distance: largest difference of a colour channel (0-255) still taken
    for background. A point of the map without a neighbour is a speck and no object. The original's mask
    serves all variants of a seed: an erased picture has no object.
    """
    pixels = np.asarray(image.convert("RGB"), np.float64)
    height, width = pixels.shape[:2]
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    plane = np.stack([np.ones_like(rows), rows, columns], -1)
    edge = max(1, round(min(height, width) / 24))
    border = np.ones((height, width), bool)
    border[edge:-edge, edge:-edge] = False
    away = np.abs(pixels - plane @ _fitted(plane[border], pixels[border], distance / 2)).max(-1)
    mask = torch.from_numpy(away > distance).float()[None, None]
    found = F.interpolate(mask, size=size, mode="area" if height >= size[0] else "nearest") >= 0.5
    around = F.avg_pool2d(found.float(), 3, stride=1, padding=1) * 9  # itself and its neighbours
    return (found & (around > 1.5))[0, 0]


def _fitted(points: np.ndarray, colours: np.ndarray, near: float) -> np.ndarray:
    """Plane [3, 3] that most of the border lies on, so that an object which touches it does not bend it.

    points: [n, 3], (1, row, column); colours: [n, 3]. Of the planes through three border points the one with
    most others within `near` (as in RANSAC, but every triple of a few), then least squares over those.
    """
    probes, tested = (np.linspace(0, len(points) - 1, n).astype(int) for n in (PROBES, 8 * PROBES))
    triples = probes[np.array(list(combinations(range(PROBES), 3)))]
    triples = triples[np.abs(np.linalg.det(points[triples])) > 0.1]  # not on one line
    planes = np.linalg.solve(points[triples], colours[triples])
    close = np.abs(colours[tested] - points[tested] @ planes).max(-1) <= near
    plane = planes[close.sum(-1).argmax()]
    for _ in range(2):
        background = np.abs(colours - points @ plane).max(-1) <= near
        plane = np.linalg.lstsq(points[background], colours[background], rcond=None)[0]
    return plane


def find_object(image: Image, size: tuple[int, int]) -> torch.Tensor | None:
    """The object_mask of a picture, or None where it shows no object on a plain background."""
    mask = object_mask(image, size)
    return mask if OBJECT_AREA[0] < float(mask.float().mean()) < OBJECT_AREA[1] else None


def known_object(original: Attribution, model: str) -> torch.Tensor | None:
    """find_object of the original's picture, of a model that draws on plain backgrounds; None for others."""
    from .models import family

    return find_object(original.image, original.size) if family(model) == "emoji" else None


def shared_places(maps: Attribution, word: str) -> list[torch.Tensor]:
    """Per selected layer, bool [H, W]: where the heads of all others look at `word` more than on average.

    DAAM's map of the other layers, which stands for the object where no mask is known. A head does not choose
    the place it is asked about, so maps that are merely uneven find none: layers of random weights agree on
    nothing. Empty for a model of one layer, and where the others are even.
    """
    every = {layer: replace(maps, layers=(layer,))[word].heads for layer in maps.sums}
    total, count = sum(heads.sum(0) for heads in every.values()), sum(map(len, every.values()))
    places = []
    for layer in maps.layers:
        others = (total - every[layer].sum(0)) / max(count - len(every[layer]), 1)
        places.append(others > others.mean().clamp_min(1e-9) * (1 + 1e-4))  # or rounding finds a place
    return places


def fine_layers(maps: Attribution) -> list[str]:
    """The selected layers whose own maps have FINE points a side or more; all where none has."""
    fine = [layer for layer in maps.layers if min(maps.sums[layer].shape[-2:]) >= FINE]
    return fine or list(maps.layers)


def sharpest_layer(maps: Attribution, word: str, mask: torch.Tensor | None = None) -> str:
    """The fine layer of the largest focus: the one whose attention to the word lies inside `mask` most.

    The focus is that of the map of all heads, as on the figures: a head that hardly reads the word hardly
    counts. Without a mask: the layer of the least mean dispersion.
    """
    scores = {}
    for layer in fine_layers(maps):
        found = replace(maps, layers=(layer,))[word]
        unknown = mask is None
        scores[layer] = -float(dispersion(found.heads).mean()) if unknown else float(focus(found.all, mask))
    return max(scores, key=scores.get)


def at_chance(maps: Attribution, word: str, mask: torch.Tensor) -> bool:
    """Whether not even the layer of the largest focus looks more at the object, in whole percent, than the
    object's share of the picture.
    """
    best = replace(maps, layers=(sharpest_layer(maps, word, mask),))[word].all
    return round(100 * float(focus(best, mask))) <= round(100 * float(mask.float().mean()))


@dataclass(frozen=True)
class HeadNumbers:
    """One row of the table: what a variant's head does in a layer and a band of steps.

    layer, band: what was selected, "all" for several. share: of its attention, on the word. dispersion: see
    there. agreement: correlation with the original's map of that head. focus: None where no object mask is
    known. hidden_prompt: share of its attention on p. key: name of the key asked for, "" for other variants.
    """

    variant: str
    layer: str
    band: str
    head: int
    share: float
    dispersion: float
    agreement: float
    focus: float | None
    hidden_prompt: float
    key: str = ""


def head_table(
    variants: Sequence[Attribution], word: str, mask: torch.Tensor | None = None
) -> list[HeadNumbers]:
    """Numbers of every head and variant; the first variant is the one agreement is measured against."""
    first = variants[0][word].heads
    table = []
    for maps in variants:
        heads, budget = maps[word].heads, maps.budget(word)
        layer = maps.layers[0] if len(maps.layers) == 1 else "all"
        band = str(maps.bands[0]) if len(maps.bands) == 1 else "all"
        focused = None if mask is None else focus(heads, mask)
        spread, agreement = dispersion(heads), correlation(first, heads)
        for head in range(len(heads)):
            inside = None if mask is None else float(focused[head])
            numbers = (float(column[head]) for column in (budget["word"], spread, agreement))
            hidden = float(budget["hidden_prompt"][head])
            key = "" if maps.key is None else maps.key.name
            table.append(HeadNumbers(maps.variant, layer, band, head, *numbers, inside, hidden, key))
    return table


def every_table(
    variants: Sequence[Attribution], word: str, mask: torch.Tensor | None = None
) -> list[HeadNumbers]:
    """head_table of each selected layer, over all selected steps and then for each band that has any."""
    bands = [(band,) for band in variants[0].bands if variants[0].steps_per_band[band]]
    table = []
    for layer in variants[0].layers:
        for chosen in (variants[0].bands, *(bands if len(variants[0].bands) > 1 else ())):
            shown = [replace(maps, layers=(layer,), bands=chosen) for maps in variants]
            table += head_table(shown, word, mask)
    return table
