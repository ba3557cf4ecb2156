"""From a run and a prompt to the figures of attention that page and command line share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .attribution import Attribution, attribute
from .attribution_export import save_arrays, save_figure, save_table
from .attribution_figure import Block, attribution_figure, paper_figure
from .attribution_key import with_key
from .attribution_measures import every_table, known_object, sharpest_layer
from .attribution_profile import profile_figure
from .attribution_summary import summary

if TYPE_CHECKING:
    from .config import GenerationConfig
    from .runs import Run


def watch_variants(
    pipe,
    prompt: str,
    seed: int,
    run: Run | None = None,
    variants: Sequence[str] | None = None,
    key: str | Path | Sequence[str] | None = "own",
    config: GenerationConfig | None = None,
    words: Sequence[str] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> list[Attribution]:
    """attribute() of one prompt and seed by each variant, by default all that the run leaves.

    on_step(i, n) counts over all of them. Raises what attribute() raises.
    """
    if variants is None:
        variants = ("original",) if run is None else run.method.variants
    found = []
    for number, variant in enumerate(variants):

        def count(step: int, steps: int, number: int = number) -> None:
            if on_step is not None:
                on_step(number * steps + step, len(variants) * steps)

        own = {} if variant == "original" else {"run": run, "key": key}
        found.append(attribute(pipe, prompt, seed, variant, words=words, config=config, on_step=count, **own))
    return found


def as_blocks(
    words: Sequence[tuple[Sequence[Attribution], str]],
    model: str,
    layer: str | None = None,
    timestep_band: int | Sequence[int] | None = None,
) -> list[Block]:
    """What paper_figure draws, from (variants, word) pairs of one model, the original's variant first.

    model: its name, which tells whether the object can be outlined. layer: as in Attribution.select; None is
    what the page opens on, the layer of the first word's largest focus; "all" is the paper's average.
    """
    blocks = []
    for variants, word in words:
        first = variants[0]
        mask = known_object(first, model) if first.variant == "original" else None
        layer = layer or sharpest_layer(first, word, mask)
        chosen = [maps.select(layer=layer, timestep_band=timestep_band) for maps in variants]
        blocks.append(Block(chosen, word, mask))
    return blocks


def profile_of(variants: Sequence[Attribution], block: Block, theme: str = "light", upright: bool = False):
    """profile_figure of all layers and bands of `variants`, with the block's layer marked."""
    layers, first = block.variants[0].layers, variants[0]
    told = (f"“{block.word}”", first.prompt, f"seed {first.seed}", with_key(variants))
    return profile_figure(
        every_table(variants, block.word, block.mask),
        layers[0] if len(layers) == 1 else None,
        None if block.mask is None else float(block.mask.float().mean()),
        "  ·  ".join(filter(None, told)),
        theme,
        upright,
        {maps.variant: maps.title for maps in variants},
    )


def told(block: Block) -> str:
    """attribution_summary.summary of the block's variants; "" where there is nothing to compare."""
    by_name = {maps.variant: maps for maps in block.variants}
    if not {"original", "sanitized"} <= set(by_name):
        return ""
    return summary(
        by_name["original"], by_name["sanitized"], by_name.get("recovered"), block.word, mask=block.mask
    )


def draw_figures(
    prompts: Sequence[Sequence[Attribution]],
    model: str,
    out: Path,
    layer: str | None = None,
    timestep_band: int | Sequence[int] | None = None,
    view: str = "overlay",
    kind: str = "png",
) -> Iterator[tuple[Path, str]]:
    """Write what the page shows of the first prompt's words into `out`; yields (path, sentence or "").

    Per word the figure, the profile and the numbers of all heads as .csv; once all arrays as .npz. A second
    prompt's first word stands below the first word's in one figure more, as in KPOP Fig. 2.
    """
    from .runs import slug

    variants = prompts[0]
    for word in variants[0].words:
        (block,) = as_blocks([(variants, word)], model, layer, timestep_band)
        name = f"attribution-{slug(word)}"
        figure = attribution_figure(block.variants, word, view, block.mask)
        yield save_figure(figure, out / f"{name}.{kind}"), told(block)
        yield save_figure(profile_of(variants, block), out / f"{name}-profile.{kind}"), ""
        yield save_table(every_table(variants, word, block.mask), out / f"{name}.csv"), ""
    mask = known_object(variants[0], model) if variants[0].variant == "original" else None
    yield save_arrays(variants, out / "attribution.npz", mask), ""
    if len(prompts) > 1:
        pairs = [(found, found[0].words[0]) for found in prompts]
        figure = paper_figure(as_blocks(pairs, model, layer, timestep_band), view)
        name = "-".join(slug(word) for _, word in pairs)
        yield save_figure(figure, out / f"attribution-{name}.{kind}"), ""
