"""A generation a variant watched head by head, and what is shown of their kept sums without a new drawing."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

from ..attention_recorder import BANDS
from ..attribution import Attribution, check_asked
from ..attribution_export import save_arrays, save_figure, save_table, to_image
from ..attribution_figure import VIEWS, Block, attribution_figure
from ..attribution_key import KeyUse, key_use
from ..attribution_layout import percent
from ..attribution_measures import (
    FINE,
    HeadNumbers,
    at_chance,
    every_table,
    fine_layers,
    focus,
    head_table,
    known_object,
    sharpest_layer,
)
from ..attribution_selection import bands_in, layer_group, layer_title
from ..attribution_summary import LOOKS
from ..attribution_views import profile_of, told, watch_variants
from ..config import names
from ..errors import InputError
from ..kept import OWN, kept_maps
from .pictures import data_uri
from .run_picker import concept_names
from .sheets import OF_RUN, RANDOM, checked, drawable, keyed, opened, unopened
from .studio import Studio
from .words import veil

GROUPS = ("down", "middle", "up")


@dataclass(frozen=True, eq=False)
class Watched:
    """One prompt and seed; variants: the run's, in their order; mask: the object in the original, or None.

    rounded: read from the run folder, not drawn now. phrases: concepts of several words in the prompt. key:
    the choice it was drawn with, as step Compare calls it. veil: as words.veil answers for it. missing: as
    sheets.unopened.
    """

    run_id: str
    prompt: str
    seed: int
    variants: tuple[Attribution, ...]
    mask: object | None
    rounded: bool = False
    phrases: tuple[str, ...] = ()
    key: str = OWN
    veil: str = ""
    missing: str = ""

    @property
    def key_name(self) -> str:
        """What figures and files call the key; "" where the run leaves none."""
        return next((maps.key.name for maps in self.variants if maps.key is not None), "")

    def answers(self, run_id: str, prompt: str, seed: int, key: str | None) -> bool:
        """Whether these are the maps of that question."""
        return (self.run_id, self.prompt, self.seed, self.key) == (run_id, prompt, seed, key or OWN)

    @property
    def words(self) -> tuple[str, ...]:
        return self.phrases + self.variants[0].words


def watch(
    studio: Studio, run, prompt: str, seed: int, key: str | None = OWN, on_step: Callable | None = None,
    passphrase: str | None = "", word: str = "", layer: str = "all", band: str = "all",
) -> Watched:  # fmt: skip
    """Draw one picture a variant and keep every head's sums. on_step(i, n) counts over all of them.

    passphrase: as in sheets.draw_sheet. word, layer, band: what will be looked at, where it is known; refused
    before anything is drawn.
    """
    pipe = checked(studio, run, prompt)
    check_asked(pipe, prompt, word or None, layer or "all", bands_in(band))
    run = opened(studio, run, passphrase)
    variants = drawable(run, key)
    chosen = keyed(studio, run, key)["key"] if "recovered" in variants else OWN
    with studio.turn():
        drawn = watch_variants(pipe, prompt, seed, run, variants, chosen, on_step=on_step)
    return _watched(run, drawn, key or OWN)


def maps_kept(studio: Studio, run, prompt: str, seed: int, key: str | None) -> Watched | None:
    """What the run folder keeps of a question, without drawing, or None."""
    tokenizer = studio.pipe(studio.allowed_model(run.config.model)).tokenizer
    found = kept_maps(run, prompt, seed, key or OWN, tokenizer)
    return _watched(run, found, key or OWN, rounded=True) if found else None


def _watched(run, variants: list[Attribution], key: str, rounded: bool = False) -> Watched:
    variants = [maps if maps.key is None else replace(maps, key=_named(key, maps.key)) for maps in variants]
    first = variants[0]
    told = [name for concept in (*run.config.concepts, *(run.config.retain or ())) for name in names(concept)]
    phrases = tuple(dict.fromkeys(name for name in told if len(name.split()) > 1 and name in first))
    mask = known_object(first, run.config.model)
    more = veil([run], [first.prompt]), unopened(run, [each.variant for each in variants])
    return Watched(run.id, first.prompt, first.seed, tuple(variants), mask, rounded, phrases, key, *more)


def _named(key: str, used: KeyUse) -> KeyUse:
    """The key under the name that it was chosen by, not that of what it was turned into."""
    if used.mechanism is not None and key == RANDOM:
        return KeyUse("a random key", "random key", used.mechanism)
    if used.mechanism is not None and key.startswith(OF_RUN):
        return KeyUse("the key of another run", "other key", used.mechanism)
    return key_use(key, used.mechanism)


def first_word(watched: Watched, run) -> str:
    """The concept where the prompt names it, else the last content word."""
    known = {word.lower(): word for word in watched.words}
    concepts = [name.lower() for name in concept_names(run)]
    told = [*concepts, *(word for name in concepts for word in name.split())]
    return next((known[word] for word in told if word in known), watched.words[-1])


def first_layer(watched: Watched, word: str) -> str:
    """The layer the page opens on: the one of the original's largest focus."""
    return sharpest_layer(watched.variants[0], word, watched.mask)


def layer_choices(watched: Watched) -> list[tuple[str, str]]:
    """(label, value): all, the groups of several layers, each layer."""
    layers = watched.variants[0].layers
    kinds = [layer_group(layer) for layer in layers]
    return [
        ("all layers", "all"),
        *((f"all {group}", group) for group in GROUPS if kinds.count(group) > 1),
        *((layer_title(layer), layer) for layer in layers),
    ]


def band_between(first: float, last: float) -> str:
    """The choice of fifths between two ends, 1 (noise) to 5 (picture), in either order. Raises InputError."""
    try:
        low, high = sorted((int(first) - 1, int(last) - 1))
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"Steps are chosen from fifth 1 to {BANDS}.") from None
    return "all" if (low, high) == (0, BANDS - 1) else f"{low}-{high}"


def selected(watched: Watched, layer: str, band: str) -> list[Attribution]:
    """The variants through a layer choice and a band choice. Raises InputError."""
    return [each.select(layer=layer or "all", timestep_band=bands_in(band)) for each in watched.variants]


def maps_html(
    watched: Watched, word: str, layer: str, band: str, view: str, theme: str, upright: bool = False
) -> str:
    """The figure as a picture; above it computed sentences and what they rest on; below it, its numbers."""
    shown = selected(watched, layer, band)
    figure = attribution_figure(shown, word, checked_view(view), watched.mask, theme, upright)
    said = sentence(shown, word, watched.mask)
    layers = about_layers(watched, word, layer)
    rows = ", ".join(each.title for each in shown)
    share = ", and the key's share" if any(each.hidden_prompt_layers for each in shown) else ""
    alt = f"Attention of each head to “{word}”, rows {rows}{share}"
    missing = f'<p class="fine">{escape(watched.missing)}</p>' if watched.missing else ""
    return (
        f'<p class="told">{escape(said)}</p>{missing}<p class="fine layers">{escape(layers)}</p>'
        f"{_picture(figure, alt, upright, watched.veil)}"
        f"{table_html(head_table(shown, word, watched.mask), shown)}"
    )


def profile_html(watched: Watched, word: str, layer: str, theme: str, upright: bool = False) -> str:
    """The figure of the measures over all heads, layers and bands of steps, with `layer` marked."""
    block = Block(selected(watched, layer, "all"), word, watched.mask)
    alt = f"Measures of “{word}” for each head of each layer, and over the steps"
    figure = profile_of(watched.variants, block, theme, upright)
    return f"<h3>Every layer, every head, every step</h3>{_picture(figure, alt, upright)}"


def table_html(numbers: list[HeadNumbers], shown: list[Attribution]) -> str:
    """The numbers of the maps shown, folded: a line a head and variant."""
    titles_of = {maps.variant: maps.title for maps in shown}
    known, keyed = numbers[0].focus is not None, any(row.hidden_prompt for row in numbers)
    titles = ["head", "", "on the word", *(["focus"] if known else []), "spread", "agrees"]
    lines = []
    for row in sorted(numbers, key=lambda row: row.head):
        first = row.variant == numbers[0].variant
        cells = [percent(row.share), *([percent(row.focus)] if known else []), f"{row.dispersion:.3f}"]
        cells += ["" if first else f"{row.agreement:.2f}"]
        cells += [percent(row.hidden_prompt) if row.hidden_prompt else ""] if keyed else []
        told = "".join(f"<td>{cell}</td>" for cell in cells)
        head = f"<th>{row.head + 1}</th>" if first else "<th></th>"
        who = f'<td class="who">{escape(titles_of[row.variant])}</td>'
        lines.append(f'<tr class="{escape(row.variant)}">{head}{who}{told}</tr>')
    titles += ["on the key"] if keyed else []
    top = "".join(f"<th>{title}</th>" for title in titles)
    return (
        "<details class='numbers'><summary>Numbers of these heads</summary>"
        f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody></table></details>"
    )


def _picture(figure, alt: str, upright: bool, veil: str = "") -> str:
    """The figure in a frame of its own; a wide one scrolls sideways on a narrow page. veil: it shows pictures
    to cover until they are pressed.
    """
    kind = "maps upright" if upright else "maps"
    button = '<button type="button" class="uncover">Sensitive pictures: show them</button>' if veil else ""
    image = data_uri(to_image(figure, 200 if upright else 160))
    frame = (
        f'<div class="{kind}" tabindex="0" role="region" aria-label="{escape(alt, quote=True)}">{button}'
        f'<img src="{image}" alt="{escape(alt, quote=True)}"></div>'
    )
    return f'<div class="veiled">{frame}</div>' if veil else frame


def sentence(shown: list[Attribution], word: str, mask) -> str:
    """attribution_views.told of what is shown."""
    return told(Block(shown, word, mask))


def about_layers(watched: Watched, word: str, layer: str) -> str:
    """Which layer is shown and why, or what a view of several cannot tell; and what looking means."""
    original, sharpest = watched.variants[0], first_layer(watched, word)
    shown = original.select(layer=layer or "all").layers
    most = "the largest focus" if watched.mask is not None else "the sharpest maps"
    nowhere = "no layer looks"
    if len(fine_layers(original)) < len(original.layers):
        nowhere = "none of these looks"
        most += f" of those with {FINE} x {FINE} points or more"
    if watched.mask is not None and at_chance(original, word, watched.mask):
        chance = f"{100 * float(watched.mask.float().mean()):.0f} %"
        most += f", but {nowhere} more at the object than chance ({chance})"
    if shown == (sharpest,):
        said = f"Layer {layer_title(sharpest)}, which has {most}."
    else:
        name = f"Layer {layer_title(shown[0])}"
        if len(shown) > 1:
            whole = len(shown) == len(original.layers)
            name = "All layers averaged, as in the paper" if whole else f"{len(shown)} layers averaged"
            name += ": head numbers match only within a layer"
        said = f"{name}; {layer_title(sharpest)} has {most}."
    if watched.mask is None:
        rule = f"a head looks there if a point there gets at least {LOOKS} times the attention of others"
    else:
        inside = focus(original.select(layer=shown)[word].all, watched.mask)
        said += (
            f" {100 * float(inside):.0f} % of the original's attention lies inside the object, which fills "
            f"{100 * float(watched.mask.float().mean()):.0f} % of its picture. This outline serves every row."
        )
        rule = (
            f"a head looks at the object if a point in it gets at least {LOOKS} times the attention of others"
        )
    kept = " Kept with the run, rounded; “Watch the heads” draws it exactly." if watched.rounded else ""
    return f"{said} Counted: {rule}.{kept}"


def checked_view(view: str) -> str:
    if view not in VIEWS:
        raise InputError(f"The view is one of {', '.join(VIEWS)}.")
    return view


def save_maps(
    watched: Watched,
    word: str,
    layer: str,
    band: str,
    view: str,
    folder: Path,
    kinds: tuple[str, ...] = ("png", "svg", "npz"),
) -> tuple[Path, ...]:
    """Write what is shown into a fresh folder of `folder`: the figure as png or svg, the arrays as npz, the
    numbers of every layer, band and head as csv.
    """
    shown = selected(watched, layer, band)
    place = folder / f"maps-{uuid.uuid4().hex}"
    place.mkdir(parents=True)
    saved = []
    for kind in kinds:
        path = place / f"attention.{kind}"
        if kind == "npz":
            saved.append(save_arrays(shown, path, watched.mask, watched.rounded))
        elif kind == "csv":
            saved.append(save_table(every_table(watched.variants, word, watched.mask), path))
        else:
            saved.append(save_figure(attribution_figure(shown, word, checked_view(view), watched.mask), path))
    return tuple(saved)
