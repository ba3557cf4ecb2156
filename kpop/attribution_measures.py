"""Numbers about attention maps: focus, pull, dispersion, agreement, and the object they are measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from PIL.Image import Image

    from .attribution import Attribution

MASK_DISTANCE = 24  # of 255: how far a pixel leaves the background before it counts as the object
FINE = 8  # points a side of a layer's own map: on fewer an object is a blot wherever it is
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
    for background. The original's mask serves all variants of a seed: an erased picture has no object.
    """
    pixels = np.asarray(image.convert("RGB"), np.float64)
    height, width = pixels.shape[:2]
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    plane = np.stack([np.ones_like(rows), rows, columns], -1)
    edge = max(1, round(min(height, width) / 24))
    border = np.ones((height, width), bool)
    border[edge:-edge, edge:-edge] = False
    for _ in range(3):  # an object that touches the border is dropped from the fit
        coefficients, *_ = np.linalg.lstsq(plane[border], pixels[border], rcond=None)
        away = np.abs(pixels - plane @ coefficients).max(-1)
        kept = border & (away <= max(distance / 2, np.median(away[border])))
        border = kept if kept.sum() >= 3 else border
    mask = torch.from_numpy(away > distance).float()[None, None]
    return F.interpolate(mask, size=size, mode="area" if height >= size[0] else "nearest")[0, 0] >= 0.5


def find_object(image: Image, size: tuple[int, int]) -> torch.Tensor | None:
    """The object_mask of a picture, or None where it shows no object on a plain background."""
    mask = object_mask(image, size)
    return mask if OBJECT_AREA[0] < float(mask.float().mean()) < OBJECT_AREA[1] else None


@dataclass(frozen=True)
class HeadNumbers:
    """One row of the table: a variant's head. focus is None where no object mask is known."""

    variant: str
    head: int
    share: float
    dispersion: float
    agreement: float  # correlation with the original's map of that head
    focus: float | None
    hidden_prompt: float


def head_table(
    variants: Sequence[Attribution], word: str, mask: torch.Tensor | None = None
) -> list[HeadNumbers]:
    """Numbers of every head and variant; the first variant is the one agreement is measured against."""
    first = variants[0][word].heads
    table = []
    for maps in variants:
        heads, budget = maps[word].heads, maps.budget(word)
        focused = None if mask is None else focus(heads, mask)
        spread, agreement = dispersion(heads), correlation(first, heads)
        for head in range(len(heads)):
            inside = None if mask is None else float(focused[head])
            numbers = (float(column[head]) for column in (budget["word"], spread, agreement))
            hidden = float(budget["hidden_prompt"][head])
            table.append(HeadNumbers(maps.variant, head, *numbers, inside, hidden))
    return table


def fine_layers(maps: Attribution) -> list[str]:
    """The selected layers whose own maps have FINE points a side or more; all where none has."""
    fine = [layer for layer in maps.layers if min(maps.sums[layer].shape[-2:]) >= FINE]
    return fine or list(maps.layers)
