"""A generation a variant watched head by head, and what is shown of their kept sums without a new drawing."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path

from .. import attribution, models
from ..attribution import BANDS, Attribution, layer_title
from ..attribution_figure import VIEWS, attribution_figure, save_arrays, save_figure, to_image
from ..attribution_measures import FINE, find_object, fine_layers
from ..attribution_summary import LOOKS, sharpest_layer, summary
from ..errors import InputError
from ..kept import OWN, kept_maps
from .pictures import data_uri
from .run_picker import concept_names
from .sheets import checked, key_value
from .studio import Studio

GROUPS = ("down", "middle", "up")


@dataclass(frozen=True, eq=False)
class Watched:
    """One prompt and seed; variants: the run's, in their order; mask: the object in the original, or None.

    rounded: read from the run folder, not drawn now.
    """

    run_id: str
    prompt: str
    seed: int
    variants: tuple[Attribution, ...]
    mask: object | None
    rounded: bool = False

    @property
    def words(self) -> tuple[str, ...]:
        return self.variants[0].words


def watch(
    studio: Studio, run, prompt: str, seed: int, key: str | None = OWN, on_step: Callable | None = None
) -> Watched:
    """Draw one picture a variant and keep every head's sums. on_step(i, n) counts over all of them."""
    pipe = checked(studio, run, prompt)
    chosen, found, variants = key_value(run, key), [], run.method.variants
    with studio.turn():
        for number, variant in enumerate(variants):

            def count(step: int, steps: int, number: int = number) -> None:
                if on_step:
                    on_step(number * steps + step, len(variants) * steps)

            own = {} if variant == "original" else {"run": run, "key": chosen}
            found.append(attribution.attribute(pipe, prompt, seed, variant, on_step=count, **own))
    return _watched(run, found)


def maps_kept(studio: Studio, run, prompt: str, seed: int, key: str | None) -> Watched | None:
    """What the run folder keeps of a question, without drawing, or None."""
    tokenizer = studio.pipe(studio.allowed_model(run.config.model)).tokenizer
    found = kept_maps(run, prompt, seed, key or OWN, tokenizer)
    return _watched(run, found, rounded=True) if found else None


def _watched(run, variants: list[Attribution], rounded: bool = False) -> Watched:
    first = variants[0]
    # The mask needs a plain background: what the embedded model draws, not Stable Diffusion.
    plain = models.family(run.config.model) == "emoji"
    mask = find_object(first.image, first.size) if plain else None
    return Watched(run.id, first.prompt, first.seed, tuple(variants), mask, rounded)


def first_word(watched: Watched, run) -> str:
    """The concept where the prompt names it, else the last content word."""
    named = [
        word for name in concept_names(run) for word in watched.words if word.lower() in name.lower().split()
    ]
    return (named or list(watched.words)[-1:] or [watched.prompt])[0]


def first_layer(watched: Watched, word: str) -> str:
    """The layer the page opens on: where the original's heads look at the object most."""
    return sharpest_layer(watched.variants[0], word, watched.mask)


def layer_choices(watched: Watched) -> list[tuple[str, str]]:
    """(label, value): all, the groups of several layers, each layer."""
    layers = watched.variants[0].layers
    kinds = [attribution.layer_group(layer) for layer in layers]
    return [
        ("all layers", "all"),
        *((f"all {group}", group) for group in GROUPS if kinds.count(group) > 1),
        *((layer_title(layer), layer) for layer in layers),
    ]


def band_choices() -> list[tuple[str, str]]:
    """(label, value): all steps, then fifths from noise to picture."""
    names = [str(band + 1) for band in range(BANDS)]
    names[0], names[-1] = "1 noise", f"{BANDS} picture"
    return [("all", "all"), *((name, str(band)) for band, name in enumerate(names))]


def selected(watched: Watched, layer: str, band: str) -> list[Attribution]:
    """The variants through a layer choice and a band choice. Raises InputError."""
    fifth = None
    if band not in (None, "", "all"):
        if str(band) not in {str(number) for number in range(BANDS)}:
            raise InputError(f"The band of steps is all, or 0 (noise) to {BANDS - 1} (picture).")
        fifth = int(band)
    return [each.select(layer=layer or "all", timestep_band=fifth) for each in watched.variants]


def maps_html(watched: Watched, word: str, layer: str, band: str, view: str, theme: str) -> str:
    """The figure as a picture; above it computed sentences and what they rest on."""
    shown = selected(watched, layer, band)
    figure = attribution_figure(shown, word, view=checked_view(view), mask=watched.mask, theme=theme)
    said = sentence(shown, word, watched.mask)
    layers = about_layers(watched, word, layer)
    rows = ", ".join(each.variant for each in shown)
    share = ", and the key's share" if len(shown) > 2 else ""
    alt = f"Attention of each head to “{word}”, rows {rows}{share}"
    return (
        f'<p class="told">{escape(said)}</p><p class="fine layers">{escape(layers)}</p>'
        '<div class="maps" tabindex="0" role="region" aria-label="Maps, scroll sideways">'
        f'<img src="{data_uri(to_image(figure))}" alt="{escape(alt, quote=True)}"></div>'
    )


def sentence(shown: list[Attribution], word: str, mask) -> str:
    """attribution_summary.summary of two variants, or of three with the key."""
    original, sanitized, *recovered = shown
    return summary(original, sanitized, recovered[0] if recovered else None, word, mask=mask)


def about_layers(watched: Watched, word: str, layer: str) -> str:
    """Which layer is shown and why, or what a view of several cannot tell; and what looking means."""
    shown = watched.variants[0].select(layer=layer or "all").layers
    sharpest = first_layer(watched, word)
    title, best, place = layer_title(shown[0]), layer_title(sharpest), "the object"
    most = "the original's heads look at the object most"
    if watched.mask is None:
        most, place = "the original's maps are sharpest", "one place"
    if len(fine_layers(watched.variants[0])) < len(watched.variants[0].layers):
        most += f", of the layers with {FINE} x {FINE} points or more"
    if len(shown) > 1:
        said = f"{len(shown)} layers averaged: head numbers match only within a layer. In {best} {most}."
    else:
        said = (
            f"Layer {title}, where {most}." if shown[0] == sharpest else f"Layer {title}; in {best} {most}."
        )
    rule = f"a head looks at {place} if a point there gets at least {LOOKS} times the attention of others"
    kept = " Kept with the run, rounded; “Watch the heads” draws it exactly." if watched.rounded else ""
    return f"{said} Counted: {rule}.{kept}"


def checked_view(view: str) -> str:
    if view not in VIEWS:
        raise InputError(f"The view is one of {', '.join(VIEWS)}.")
    return view


def save_maps(
    watched: Watched, word: str, layer: str, band: str, view: str, folder: Path
) -> tuple[Path, Path, Path]:
    """Write the figure as PNG and SVG and all arrays as npz into a fresh folder of `folder`."""
    shown = selected(watched, layer, band)
    figure = attribution_figure(shown, word, view=checked_view(view), mask=watched.mask)
    place = folder / f"maps-{uuid.uuid4().hex}"
    place.mkdir(parents=True)
    return (
        save_figure(figure, place / "attention.png"),
        save_figure(figure, place / "attention.svg"),
        save_arrays(shown, place / "attention.npz"),
    )
