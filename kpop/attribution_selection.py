"""Names of the layers whose attention is looked at, and the choice of some of them and of bands of steps."""

from __future__ import annotations

from collections.abc import Sequence

from .attention_recorder import BANDS
from .errors import InputError, ModelError

GROUPS = {"down": "down", "mid": "middle", "middle": "middle", "up": "up"}


def layer_group(name: str) -> str:
    """down, middle or up, from a layer's name in the U-Net."""
    return "middle" if name.startswith("mid") else "up" if name.startswith("up") else "down"


def layer_title(name: str) -> str:
    """A layer's name for people: "up 1.0" is the first attention of the second block on the way up."""
    numbers = [part for part in name.split(".") if part.isdigit()]
    if "transformer_blocks" in name and numbers[-1] == "0":
        numbers = numbers[:-1]
    suffix = " first" if name.endswith("attn1") else ""  # a block whose self-attention also reads the text
    return f"{layer_group(name)} {'.'.join(numbers)}{suffix}"


def layer_order(name: str) -> tuple:
    """Sorts layers as the U-Net runs through them."""
    numbers = tuple(int(part) for part in name.split(".") if part.isdigit())
    return ("down", "middle", "up").index(layer_group(name)), numbers


def layers_of(pipe) -> tuple[str, ...]:
    """Names of the layers that a picture's attention is recorded in. ModelError where there are none."""
    from .prompt_attention import find_attention

    unet = getattr(pipe, "unet", None)
    found = {} if unet is None else find_attention(unet)
    names = [name for name, module in found.items() if module.is_cross_attention]
    if not names:
        raise ModelError(
            "This pipeline has no U-Net with cross-attention to look at. Use a Stable Diffusion model."
        )
    return tuple(sorted(names, key=layer_order))


def find_layers(layers: Sequence[str], wanted: str | int | Sequence[str | int] | None) -> tuple[str, ...]:
    """Those of `layers` that Attribution.select's `layer` asks for, in their order. Raises InputError."""
    if wanted is None or wanted == "all":
        return tuple(layers)
    wanted = [wanted] if isinstance(wanted, str | int) else list(wanted)
    found: set[str] = set()
    for item in wanted:
        if isinstance(item, int) and -len(layers) <= item < len(layers):
            found.add(layers[item])
        elif titled := [name for name in layers if item in (name, layer_title(name))]:
            found.update(titled)
        elif item in GROUPS and (group := [n for n in layers if layer_group(n) == GROUPS[item]]):
            found.update(group)
        else:
            names = ", ".join(map(layer_title, layers))
            raise InputError(f"No layer {item!r}: choose down, middle, up or one of {names}.")
    return tuple(name for name in layers if name in found)


def bands_in(text: str | None) -> tuple[int, ...] | None:
    """A choice of bands in words, "all", "2" or "1-3", as Attribution.select takes it. Raises InputError."""
    if text in (None, "", "all"):
        return None
    first, dash, last = str(text).partition("-")
    known = [str(band) for band in range(BANDS)]
    if first not in known or (dash and last not in known[int(first) :]):
        raise InputError(
            f"The band of steps is all, one from 0 (noise) to {BANDS - 1} (picture), or several, such as 1-3."
        )
    return tuple(range(int(first), int(last if dash else first) + 1))


def find_bands(steps_per_band: Sequence[int], wanted: int | Sequence[int] | None) -> tuple[int, ...]:
    """The bands that Attribution.select's `timestep_band` asks for. InputError also where they are empty."""
    if wanted is None or wanted == "all":
        return tuple(range(BANDS))
    bands = tuple(sorted({wanted} if isinstance(wanted, int) else set(wanted)))
    if not bands or not all(isinstance(band, int) and 0 <= band < BANDS for band in bands):
        raise InputError(f"A time band is a whole number from 0 (noise) to {BANDS - 1} (picture).")
    if not sum(steps_per_band[band] for band in bands):
        raise InputError(f"No step fell into that time band: draw with {BANDS} steps or more.")
    return bands
