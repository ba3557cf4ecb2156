"""Numbers and one sentence about attention maps: focus, dispersion, agreement, and where the mass went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from .errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from .attribution import Attribution

MASK_DISTANCE = 24  # of 255: how far a pixel leaves the background before it counts as the object
LOST = 0.5  # a head lost a word when less than half of what tied it to the word is left


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


def sharpest_layer(maps: Attribution, word: str, mask: torch.Tensor | None = None) -> str:
    """The layer whose heads look at the word most sharply: largest focus, without a mask least dispersion."""
    scores = {}
    for layer in maps.layers:
        heads = maps.select(layer=layer)[word].heads
        scores[layer] = float(focus(heads, mask).mean() if mask is not None else -dispersion(heads).mean())
    return max(scores, key=scores.get)


def lost_heads(
    first: Attribution, then: Attribution, word: str, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """bool [heads]: heads that no longer look at `word` as they did in `first`.

    A head has left when its attention to the word fell below half, or when less than half of its tie to the
    place is left: its focus above chance in `mask` (the object in `first`), or without a mask the correlation
    of the two maps.
    """
    before, after = first[word].heads, then[word].heads
    faded = then.budget(word)["word"] < LOST * first.budget(word)["word"]
    if mask is None:
        return faded | (correlation(before, after) < LOST)
    chance = mask.float().mean()
    tie, left = focus(before, mask) - chance, focus(after, mask) - chance
    return faded | ((tie > 0) & (left < LOST * tie))


def summary(
    original: Attribution,
    sanitized: Attribution,
    recovered: Attribution | None,
    word: str,
    mask: torch.Tensor | None = None,
) -> str:
    """One or two sentences on what the heads did with `word`, from `lost_heads` and attention budgets."""
    if original.seed != sanitized.seed or original.prompt != sanitized.prompt:
        raise InputError("Compare maps of one prompt and one seed.")
    lost = lost_heads(original, sanitized, word, mask)
    count, heads = int(lost.sum()), len(lost)
    if count == 0:
        sentence = f"No head left the {word}: all {heads} still look where they did."
    else:
        sentence = f"{count} of {heads} heads left the {word}; {_where(original, sanitized, word, lost)}."
    if recovered is None:
        return sentence
    back = lost & ~lost_heads(original, recovered, word, mask)
    hidden = _percent(_hidden_share(recovered))
    if count and hidden:
        sentence += f" With the key {int(back.sum())} of them look at it again, and {hidden} of the attention"
        sentence += " where the key enters goes to the key."
    elif count:
        sentence += f" In the recovered picture {int(back.sum())} look at it again; nothing went to a key."
    return sentence


def _where(original: Attribution, sanitized: Attribution, word: str, lost: torch.Tensor) -> str:
    before, after = original.budget(word), sanitized.budget(word)
    moved = {part: float((after[part] - before[part])[lost].mean()) for part in before}
    fall = -moved.pop("word")
    target = max(moved, key=moved.get)
    names = {
        "start": "the start token",
        "other_words": "the other words",
        "padding": "the end of the prompt",
        "hidden_prompt": "the key",
    }
    share = float(before["word"][lost].mean())
    if fall < 0.1 * share or moved[target] <= 0:
        return "they look elsewhere in the picture, as strongly as before"
    part = "most of their mass" if moved[target] >= fall / 2 else "part of their mass"
    return f"{part} moved to {names[target]} ({_percent(share)} to {_percent(share - fall)} on the word)"


def _hidden_share(maps: Attribution) -> float:
    layers = maps.hidden_prompt_layers
    if not layers:
        return 0.0
    shares = maps.hidden_prompt_share()
    return float(torch.cat([shares[layer] for layer in layers]).mean())


def _percent(share: float) -> str:
    return "" if share <= 0 else "under 1 %" if share < 0.01 else f"{100 * share:.0f} %"
