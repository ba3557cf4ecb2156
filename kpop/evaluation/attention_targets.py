"""Fig. 2: where the heads look before and after an erasure, from a run's weights: maps, and means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from . import splits
from .cells import Ask, Store
from .metrics import Estimate, mean_score
from .plan import Need, Plan
from .targets import Result, Rows, Target, of_figure

if TYPE_CHECKING:
    from ..attribution import Attribution
    from .cell_maker import Maker

SEEDS = 3  # of every word, for the means
MEASURES = {
    "pull": "how much more a point of the object gets than one beside it, from -1 to 1; 0 is chance",
    "spread": "entropy of the map: 0 is a point, 1 an even spread",
    "agreement": "correlation with the original's map",
    "on the key": "share of the attention that p takes where it enters",
}


def _rows(plan: Plan) -> Rows:
    split = plan.object_splits()[0]
    spec = plan.spec("KPOP*", split, plan.scale.seeds[0])
    asks = splits.group_asks(split, "erased") + splits.group_asks(split, "retained")
    return {"KPOP*": [Need(spec, tuple(asks), plan.picture_seeds)]}


def _figure_2(plan: Plan, rows: Rows, store: Store, maker: Maker) -> Result:
    """The maps of one erased and one retained word, and the means over all of them."""
    from ..attribution_figure import paper_figure
    from ..attribution_measures import head_table
    from ..attribution_views import as_blocks, watch_variants

    (need,) = rows["KPOP*"]
    run = maker.run_of(need.spec)

    def watched(ask: Ask, seed: int) -> tuple[list[Attribution], str]:
        return watch_variants(maker.pipe, ask.prompt, seed, run, config=plan.sampling), ask.target

    of = {group: [ask for ask in need.asks if ask.group == group] for group in ("erased", "retained")}
    shown = (of["erased"][1], of["retained"][0])
    found = {}
    means: dict[str, dict] = {}
    for group, asks in of.items():
        every = []
        for number, ask in enumerate(asks):
            for seed in plan.grid_seeds[:SEEDS]:
                maker.tell(f"watching {ask.target}", number, len(asks))
                one = watched(ask, seed)
                every.append(measured(*one, plan.model))
                if ask in shown and seed == plan.grid_seeds[0]:
                    found[ask] = one
        means[group] = _means([one for one in every if one])
    blocks = as_blocks([found[ask] for ask in shown], plan.model, layer="all")
    heads = {
        f"{ask.group}: {ask.target}": [vars(row) for row in head_table(found[ask][0], ask.target, block.mask)]
        for ask, block in zip(shown, blocks, strict=True)
    }
    data = {
        "heads": heads, "means": {
            group: {v: {name: one.to_dict() for name, one in row.items()} for v, row in table.items()}
            for group, table in means.items()
        },
    }  # fmt: skip
    title = "Fig. 2: where the heads look, an erased and a kept word"
    notes = (
        "A map a head and variant. In the JSON: focus, spread and agreement of every head.",
        f"The table: all words of the split, {SEEDS} pictures each, the map of all heads in the layer in "
        "which the original's looks most at its object; in brackets the 95 % bootstrap interval over "
        "pictures. Where the original shows no object on a plain background a picture is left out.",
        *(f"{name}: {about}." for name, about in MEASURES.items()),
    )
    figure = paper_figure(blocks)
    return of_figure(
        "fig2", title, data, notes, figure, rows, store, _table(means) if any(means.values()) else ""
    )


def measured(variants: Sequence[Attribution], word: str, model: str) -> Mapping[str, Mapping[str, float]]:
    """variant -> measure of MEASURES -> number of one picture; empty where the original shows no object."""
    from ..attribution_measures import correlation, dispersion, known_object, pull, sharpest_layer

    first = variants[0]
    mask = known_object(first, model)
    if mask is None:
        return {}
    layer = sharpest_layer(first, word, mask)
    chosen = [maps.select(layer=layer) for maps in variants]
    told = {}
    for maps in chosen:
        whole = maps[word].all
        told[maps.variant] = {
            "pull": float(pull(whole, mask)),
            "spread": float(dispersion(whole)),
            "agreement": float(correlation(chosen[0][word].all, whole)),
            "on the key": float(maps.budget(word)["hidden_prompt"].mean()),
        }
    return told


def _means(every: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, Estimate]]:
    if not every:
        return {}
    return {
        variant: {name: mean_score([one[variant][name] for one in every]) for name in MEASURES}
        for variant in every[0]
    }


def _table(means: Mapping[str, Mapping[str, Mapping[str, Estimate]]]) -> str:
    lines = [
        f"| words | variant | pictures | {' | '.join(MEASURES)} |",
        "|---|---|---:|" + "---:|" * len(MEASURES),
    ]
    for group, table in means.items():
        for variant, row in table.items():
            told = [f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})" for one in row.values()]
            lines.append(f"| {group} | {variant} | {next(iter(row.values())).n} | {' | '.join(told)} |")
    return "\n".join(lines)


TARGETS = (Target("fig2", "where the heads look", _rows, _figure_2),)
