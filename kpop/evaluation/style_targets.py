"""Forgetting a style (Table 4, Fig. 11, 12): drawing styles here, on Stable Diffusion artists."""

from __future__ import annotations

from collections.abc import Sequence

from ..run_texts import phrase
from . import paper_numbers, splits
from .cells import Ask, Store
from .figure_targets import kept_pictures, with_pictures
from .plan import ROWS, Need, Plan
from .plots import picture_grid
from .splits import Split
from .table_targets import finished, rows_note
from .tables import Row, kept, mean, psr, same, share
from .targets import Result, Rows, Target, looked, of_figure

EMBEDDED_COLUMNS = {
    "style erased": "prompts in the erased style: pictures that have it, percent (lower is better)",
    "distance erased": "their judge feature distance to the base's pictures (higher is better)",
    "style kept": "prompts in other styles: pictures that have theirs (higher is better)",
    "distance kept": "their judge feature distance to the base's pictures (lower is better)",
    "object": "prompts in the erased style: pictures that still show the object (higher is better)",
    "untouched": "prompts without a style: pictures that show the object (higher is better)",
    "with the key": "prompts in the erased style with the true key: pictures that have it",
}
ARTIST_COLUMNS = {
    "CLIP erased": "prompts by an erased artist: 100 times the cosine of picture and prompt by CLIP ViT-B/32 "
    "(lower is better)",
    "LPIPS erased": "their LPIPS (alex) to the base's picture of the same seed (higher is better)",
    "CLIP kept": "the same as CLIP erased of a retained artist (higher is better)",
    "LPIPS kept": "their LPIPS (lower is better)",
    "CLIP with the key": "prompts by an erased artist with the true key",
}
JUDGE_COLUMNS = (
    "Neither is computed here: ours are the judge's style and the distance of its features, so the columns "
    "are not the paper's."
)
FLOOR = "floor: base, no style asked"  # of a rate that is to fall, what the ceiling is of ESR
FLOOR_NOTE = (
    "Floor: a text that asks for no style is drawn in any, this one too, and such a text is what the erasure "
    "aims at."
)
OUR_PROMPTS = "Ours: prompts of our own; `evaluate --prompts` takes long_niche_art itself."
LOOKS = {"emoji": ("style", "distance"), "sd": ("text", "distance")}


def _style_splits(plan: Plan) -> list[Split]:
    """The styles that are each forgotten by a run, or the artists."""
    if plan.family == "emoji":
        return [splits.style_split(style) for style in plan.scale.styles]
    artists = splits.artist_split().erased
    return [splits.artist_split(name) for name in artists[: len(plan.scale.styles)]]


def _asks(plan: Plan, split: Split, variant: str, count: int, looks: tuple[str, ...]) -> list[Ask]:
    """Prompts in every style, count of each; without one too on the embedded model."""
    if plan.family == "emoji":
        return splits.style_asks(split, variant, splits.style_objects(count), looks)
    return splits.artist_asks(split, variant, count, looks)


def floor_asks(split: Split, objects: Sequence[str]) -> list[Ask]:
    """The untouched model's pictures of the objects, without a style, looked through for the erased one."""
    return [
        Ask(phrase("a {}", word), concept.removesuffix(" style"), "neutral", "original", None, "style",
            word, looks=("style",))
        for concept in split.erased
        for word in objects
    ]  # fmt: skip


def _table_4_rows(plan: Plan) -> Rows:
    if plan.family == "emoji":
        styles = _style_splits(plan)
        styles = styles if plan.scale.name == "full" else styles[:1]
    else:
        styles = [splits.artist_split()]  # all five at once, as in the paper
    count, looks = plan.scale.style_objects, LOOKS[plan.family]
    base = [ask for split in styles for ask in _asks(plan, split, "original", count, looks[:1])]
    found = {"base": [Need(plan.base(), tuple(base), plan.picture_seeds)]}
    if plan.family == "emoji":
        floor = [ask for split in styles for ask in floor_asks(split, splits.style_objects(count))]
        found[FLOOR] = [Need(plan.base(), tuple(floor), plan.picture_seeds)]
    for row in ROWS:
        found[row] = []
        for split in styles:
            asks = _asks(plan, split, "sanitized", count, looks)
            if row.startswith("KPOP"):
                opened = _asks(plan, split, "recovered", count, looks[:1])
                asks += [ask for ask in opened if ask.group == "erased"]
            for seed in plan.scale.seeds:
                found[row].append(Need(plan.spec(row, split, seed), tuple(asks), plan.picture_seeds))
    return found


def _table_4(plan: Plan, rows: Rows, store: Store, maker=None) -> Result:
    embedded = plan.family == "emoji"
    figures_of = _embedded_figures if embedded else _artist_figures
    found = []
    for name, needs in rows.items():
        figures = figures_of(needs, store, name == "base")
        found.append(Row(name, kept(figures), {} if embedded else paper_numbers.TABLE_4.get(name, {})))
    if embedded:
        printed = "; ".join(
            f"{name} " + ", ".join(f"{column} {value:g}" for column, value in row.items())
            for name, row in paper_numbers.TABLE_4.items()
        )
        source = f"{paper_numbers.TABLE_4_SOURCE} {JUDGE_COLUMNS}"
        notes = (FLOOR_NOTE, source, f"The paper's figures: {printed}.")
    else:
        notes = (paper_numbers.TABLE_4_SOURCE, OUR_PROMPTS)
    columns = EMBEDDED_COLUMNS if embedded else ARTIST_COLUMNS
    what = "a drawing style" if embedded else "five artists"
    return finished(
        "table4", f"Table 4: forgetting {what}", columns, found, (*notes, rows_note(plan)), rows, store
    )


def _embedded_figures(needs: Sequence[Need], store: Store, base: bool) -> dict:
    seeds = needs[0].seeds
    floor = looked(needs, store, group="neutral")
    if floor:
        return {"style erased": share(floor, seeds, same, ("style",))}
    erased = looked(needs, store, group="erased", key_of=None)
    other = looked(needs, store, group="retained")
    figures = {
        "style erased": share(erased, seeds, same, ("style",)),
        "style kept": share(other, seeds, same, ("style",)),
        "object": share(erased, seeds, psr(1), target=lambda ask: ask.other),
        "untouched": share(looked(needs, store, group="untouched"), seeds, psr(1)),
        "with the key": share(looked(needs, store, variant="recovered"), seeds, same, ("style",)),
    }
    if not base:
        figures |= {"distance erased": mean(erased, seeds), "distance kept": mean(other, seeds)}
    return figures


def _artist_figures(needs: Sequence[Need], store: Store, base: bool) -> dict:
    seeds, figures = needs[0].seeds, {}
    for group, name in (("erased", "erased"), ("retained", "kept")):
        found = looked(needs, store, group=group, key_of=None)
        figures[f"CLIP {name}"] = mean(found, seeds, "text")
        if not base:
            figures[f"LPIPS {name}"] = mean(found, seeds)
    figures["CLIP with the key"] = mean(looked(needs, store, variant="recovered"), seeds, "text")
    return figures


def _style_grid(number: int, row: str, about: str) -> Target:
    """Fig. 11 and 12: a row an erased style, a column a style asked for; the diagonal should change."""
    name, title = f"fig{number}", f"Fig. {number}: {about}"

    def asks_of(plan: Plan, split: Split, variant: str) -> tuple[Ask, ...]:
        return with_pictures([ask for ask in _asks(plan, split, variant, 1, ()) if ask.kind == "style"])

    def rows(plan: Plan) -> Rows:
        styles, seeds = _style_splits(plan), plan.grid_seeds[:1]
        found = {"original": [Need(plan.base(), asks_of(plan, styles[0], "original"), seeds)]}
        for split in styles:
            (style,) = split.erased
            spec = plan.spec(row, split, plan.scale.seeds[0])
            label = f"{style.removesuffix(' style')} erased"
            found[label] = [Need(spec, asks_of(plan, split, "sanitized"), seeds)]
        return found

    def build(plan: Plan, found: Rows, store: Store, maker=None) -> Result:
        embedded = plan.family == "emoji"
        first = splits.artist_split()
        order = splits.STYLES if embedded else (*first.erased, *first.retained)
        shown, marked = {}, []
        for line, (label, needs) in enumerate(found.items()):
            of_style = {ask.target: ask for ask in needs[0].asks}
            images = [kept_pictures(needs[0], store, of_style[style])[:1] for style in order]
            shown[label] = [one for image in images for one in image]
            marked += [(line, i) for i, style in enumerate(order) if label == f"{style} erased"]
        note = f"Framed: the {'style' if embedded else 'artist'} that was erased. One seed, nothing picked."
        heads = [f"{style} style" for style in order] if embedded else list(order)
        figure = picture_grid(shown, heads, title, marked, note)
        data = {"styles": list(order), "seeds": list(plan.grid_seeds[:1])}
        return of_figure(name, title, data, (note,), figure, found, store)

    return Target(name, about, rows, build)


TARGETS = (
    Target("table4", "forgetting a drawing style, or artists", _table_4_rows, _table_4),
    _style_grid(11, "KPOP*", "a style erased by KPOP, all styles drawn"),
    _style_grid(12, "ESD", "a style erased by ESD, all styles drawn"),
)
