"""The figure of attention maps: a row per variant, a column per head, one colour scale (KPOP Fig. 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from PIL import Image

from .attribution import Attribution
from .attribution_layout import COLOURS, KEY, Layout, percent
from .attribution_measures import correlation, dispersion, focus
from .attribution_summary import looking_heads, staying_heads
from .errors import InputError

VIEWS = ("overlay", "heat", "difference")
SHOWN = 192  # pixels of a picture's shorter side


@dataclass(frozen=True)
class Block:
    """One word's rows. variants: of one prompt and seed, the original first, narrowed by select() beforehand.

    mask: bool [H, W], the object in the original picture where it is known: outlined in every row, and what
    the focus under a map is the share inside of.
    """

    variants: Sequence[Attribution]
    word: str
    mask: torch.Tensor | None = None


def attribution_figure(
    variants: Sequence[Attribution],
    word: str,
    view: str = "overlay",
    mask: torch.Tensor | None = None,
    theme: str = "light",
    upright: bool = False,
) -> Figure:
    """One word's maps: paper_figure of a single Block."""
    return paper_figure([Block(variants, word, mask)], view, theme, upright)


def paper_figure(
    blocks: Sequence[Block], view: str = "overlay", theme: str = "light", upright: bool = False
) -> Figure:
    """Maps of one or several words in the layout of KPOP Fig. 2, such as a concept to erase and one to keep.

    A row per variant, a column per head, then all heads and their numbers; rows and columns change places
    when `upright`, for a narrow page. view: maps over the picture, maps alone, or what changed since the
    first variant. Every map is on one scale. A last row shows the share of attention on the hidden prompt,
    where there is one. Returns a Figure of its own (no pyplot state). Raises InputError.
    """
    lines = _lines(blocks, view)
    colours, heads = COLOURS[theme], blocks[0].variants[0].heads
    maps = torch.cat([line.shown for line in lines if not line.is_key])
    norm, colour_map = _scale(maps, view, theme)
    key_top = max([float(line.shown.max()) for line in lines if line.is_key], default=0.0)
    key_norm = Normalize(0, min(max(key_top, 1e-6), 1.0))  # bicubic overshoots
    page = Layout(blocks, lines, heads, upright, colours)
    for at, line in enumerate(lines):
        colour = colours.get(line.variant.variant, colours["ink"])
        page.label(at, line.label(view), colour)
        if not line.is_key:
            page.cell(at, 0, np.asarray(_picture(line.variant.image, "RGB")), colour)
        for column, map_ in enumerate(line.shown.numpy(), 1):
            if line.is_key:
                axis = page.cell(at, column, KEY(key_norm(map_))[..., :3], colour)
            else:
                shade = colour_map(norm(map_))[..., :3]
                if view == "overlay":
                    shade = _over(shade, line.variant.image)
                axis = page.cell(at, column, shade, colour)
                _outline(axis, line, map_.shape, view, colours)
            page.under(axis, *line.number(column - 1))
        page.numbers(at, line.means())
    page.bars(norm, colour_map, "change" if view == "difference" else "attention", key_norm)
    return page.figure


@dataclass(frozen=True)
class _Line:
    """A row of the figure. maps: [heads + 1, H, W] of the word or, in the key's row, the mass on p."""

    block: int
    variant: Attribution
    maps: torch.Tensor
    shown: torch.Tensor
    first: torch.Tensor  # the original's maps
    mask: torch.Tensor | None
    looks: torch.Tensor | None  # bool [heads]
    is_key: bool = False
    is_first: bool = False

    def label(self, view: str) -> str:
        if self.is_key:
            return "key's share\nwhere it enters"
        return self.variant.title + ("\nminus original" if view == "difference" else "")

    def number(self, head: int) -> tuple[str, bool]:
        """What stands under a map, and whether the head looks at the object."""
        if self.is_key:
            return percent(float(self.maps[head].mean())), False
        if self.mask is not None:
            bold = self.looks is not None and head < len(self.looks) and bool(self.looks[head])
            return f"{100 * float(focus(self.maps[head], self.mask)):.0f} %", bold
        return ("", False) if self.is_first else (f"r {_r(self.first[head], self.maps[head]):.2f}", False)

    def means(self) -> list[tuple[str, str]]:
        if self.is_key:
            return []
        heads, first = self.maps[:-1], self.first[:-1]
        found = []
        if self.mask is not None:  # of the map "all", which sharpest_layer goes by as well
            found = [("focus", f"{100 * float(focus(self.maps[-1], self.mask)):.0f} %")]
        found.append(("spread", f"{float(dispersion(heads).mean()):.3f}"))
        agrees = float(correlation(first, heads).mean())
        return found if self.is_first else [*found, ("agrees", f"{agrees:.2f}")]


def _r(first: torch.Tensor, then: torch.Tensor) -> float:
    return float(correlation(first, then))


def _lines(blocks: Sequence[Block], view: str) -> list[_Line]:
    if view not in VIEWS:
        raise InputError(f"No view {view!r}: choose {', '.join(VIEWS)}.")
    every = [maps for block in blocks for maps in block.variants]
    if not every or view == "difference" and any(len(block.variants) < 2 for block in blocks):
        raise InputError("Give at least one variant, and two for the difference.")
    if any(len({(maps.prompt, maps.seed) for maps in block.variants}) > 1 for block in blocks):
        raise InputError("The rows of one word need one prompt and one seed.")
    if len({(maps.heads, tuple(maps.sums)) for maps in every}) > 1:
        raise InputError("The rows of one figure need one model.")
    lines = []
    for number, block in enumerate(blocks):
        first = _with_all(block.variants[0], block.word)
        for at, variant in enumerate(block.variants):
            maps = first if at == 0 else _with_all(variant, block.word)
            if view == "difference" and at == 0:
                continue
            # What a head does counts within a layer: the mean of several has no head of its own.
            told = block.mask is not None and len(variant.layers) == 1
            looks = looking_heads(variant, block.word, block.mask) if told else None
            if told and at:  # as the sentences count: who still does, though less, has not left
                looks |= staying_heads(block.variants[0], variant, block.word, block.mask)
            shown = maps - first if view == "difference" else maps
            lines.append(_Line(number, variant, maps, shown, first, block.mask, looks, is_first=at == 0))
        for variant in block.variants:
            if variant.hidden_prompt_layers:
                mass = variant.hidden_prompt_mass
                mass = torch.cat([mass, mass.mean(0, keepdim=True)])
                lines.append(_Line(number, variant, mass, mass, first, None, None, is_key=True))
    return lines


def _with_all(maps: Attribution, word: str) -> torch.Tensor:
    found = maps[word]
    return torch.cat([found.heads, found.all[None]])


def _scale(shown: torch.Tensor, view: str, theme: str) -> tuple[Normalize, Colormap]:
    """One norm and colour map for every panel; the 0.5 % of points at either end may saturate."""
    top = max(float(np.quantile(shown.abs().numpy(), 0.995)), 1e-6)
    if view == "difference":
        middle = "#1e293b" if theme == "dark" else "#f1f5f9"
        return TwoSlopeNorm(0, -top, top), LinearSegmentedColormap.from_list(
            "change", ["#2166ac", middle, "#b2182b"]
        )
    low = min(float(np.quantile(shown.numpy(), 0.005)), 0.9 * top)
    return Normalize(low, top, clip=True), colormaps["magma"]


def _picture(image: Image.Image, mode: str) -> Image.Image:
    factor = SHOWN / min(image.size)
    size = [round(side * factor) for side in image.size]
    return image.convert(mode).resize(size, Image.Resampling.LANCZOS)


def _over(shade: np.ndarray, image: Image.Image) -> np.ndarray:
    """The map's colours, lit by the picture: bright parts of it lighten them, dark parts darken them."""
    grey = _picture(image, "L")
    large = Image.fromarray((shade * 255).astype(np.uint8)).resize(grey.size, Image.Resampling.BICUBIC)
    light = np.asarray(grey, np.float32)[..., None] / 255 - 0.5
    return np.clip(np.asarray(large, np.float32) / 255 * 0.8 + 0.05 + 0.28 * light, 0, 1)


def _outline(axis, line: _Line, shape: tuple[int, int], view: str, colours: dict[str, str]) -> None:
    """The object of the original picture: dashed where it need not be in the picture any more."""
    if line.mask is None or not bool(line.mask.any()) or bool(line.mask.all()):
        return
    right, bottom = axis.get_images()[0].get_size()[::-1]
    height, width = shape
    down = (np.arange(height) + 0.5) * bottom / height - 0.5
    across = (np.arange(width) + 0.5) * right / width - 0.5
    axis.contour(
        across, down, line.mask.numpy().astype(float), [0.5], linewidths=0.8,
        colors=colours["ink"] if view == "difference" else "#ffffff",
        linestyles="solid" if line.is_first else "dashed",
    )  # fmt: skip
