"""The texts of a run: every concept in every phrasing, what is retained, and the neutral text."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from .config import Concept, EraseConfig, names
from .model_table import styles_of, templates_for
from .model_words import by_meaning

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

PAIRS = 8  # texts of two things for each concept
# Words whose first sound is not what their first letter says: "a unicorn" and "an hour", as against "an axe".
VOWEL_FIRST = re.compile(
    r"(?!uni(?![dmn])|us[eu]|uk|ufo\b|ute|eu|ewe|one\b|once\b)[aeiou]|hour|honest|honou?r|heir", re.I
)


def phrase(template: str, word: str) -> str:
    """The word in a phrasing: "a {}" becomes "an axe" where it must."""
    if VOWEL_FIRST.match(word):
        template = re.sub(r"\b([Aa]) \{\}", r"\1n {}", template)
    return template.replace("{}", word)


def anchors(cfg: EraseConfig) -> tuple[str, ...]:
    """What L1 aims each template at."""
    return cfg.anchors or (cfg.neutral or "",) * len(cfg.templates)


def aims(cfg: EraseConfig, concept: Concept) -> dict[str, str]:
    """Every text of a concept, and what L1 aims it at: its template's anchor, or the neutral text."""
    told = zip(cfg.templates, anchors(cfg), strict=True)
    return {text: aim for template, aim in told for text in phrasings(concept, [template])}


def phrasings(concept: Concept, templates: Iterable[str]) -> tuple[str, ...]:
    """Every synonym in every template."""
    return tuple(dict.fromkeys(phrase(template, word) for word in names(concept) for template in templates))


def shown_text(cfg: EraseConfig, concept: Concept) -> str:
    """The phrasing in which a run's samples show a concept."""
    return phrase(next((t for t in cfg.templates if t != "{}"), "{}"), names(concept)[0])


def kept_templates(cfg: EraseConfig, word: str) -> tuple[str, ...]:
    """The phrasings in which a run keeps a word: its own, but where it erases styles alone and this is an
    object, or the other way round, those of the word's kind.
    """
    styles = styles_of(cfg.model, cfg.concepts)
    styled = len(styles) == len(cfg.concepts) > 0
    if styled == bool(styles_of(cfg.model, (word,))):
        return cfg.templates
    return templates_for(cfg.model, word)


def style_beside_objects(model: str, concepts: Sequence[Concept]) -> str:
    """A sentence for who erases drawing styles and objects in one run; "" for who does not.

    A style is learned on objects drawn in it only where all concepts are styles (model_table.recommended).
    """
    styles = styles_of(model, concepts)
    if len(styles) in (0, len(concepts)):
        return ""
    return (
        f"A drawing style, here {' and '.join(styles)}, is forgotten well only in a run without objects: in "
        "this one, whatever is drawn in it may go too. Train one run for styles and one for objects."
    )


def retained_texts(cfg: EraseConfig) -> tuple[str, ...]:
    """Every retained word in every phrasing, first each word in one of them; without the neutral text."""
    words = [word for concept in cfg.retain or () for word in names(concept)]
    told = {word: kept_templates(cfg, word) for word in words}
    texts = (
        phrase(told[word][(i + turn) % len(told[word])], word)
        for turn in range(max(map(len, told.values()), default=0))
        for i, word in enumerate(words)
    )
    return tuple(dict.fromkeys(texts))


def near_texts(
    pipe: StableDiffusionPipeline, cfg: EraseConfig, concept: Concept, kept: Iterable[Concept] = ()
) -> tuple[str, ...]:
    """Texts of the third of the words of `kept` that are nearest to a concept."""
    words = [word for one in kept for word in names(one)]
    ranked = by_meaning(pipe, names(concept), words) if words else []
    nearest = ranked[: -(-len(words) // 3)]
    return tuple(text for word in nearest for text in phrasings(word, kept_templates(cfg, word)))


def pairs(cfg: EraseConfig, concept: Concept) -> tuple[tuple[str, str], ...]:
    """(text of a concept with a retained word beside it, the same with another retained word in the concept's
    place), at most PAIRS. Aimed at the word beside it alone, any two things would come as one; that is left
    where nothing else is retained.

    () where the run has no rows of them, and for a drawing style. The same for every seed, so that runs share
    their trajectories.
    """
    kept = [word for one in cfg.retain or () for word in names(one) if not styles_of(cfg.model, (word,))]
    if not cfg.pair_share or not kept or styles_of(cfg.model, (concept,)):
        return ()
    found, own = [], names(concept)
    draw = random.Random(" ".join(own))
    for i, other in enumerate(draw.sample(kept, min(PAIRS, len(kept)))):
        erased, beside = phrase("a {}", own[i % len(own)]), phrase("a {}", other)
        rest = [word for word in kept if word != other]
        aim = _two(phrase("a {}", draw.choice(rest)), beside, i) if rest else beside
        found.append((_two(erased, beside, i), aim))
    return tuple(found)


def _two(one: str, other: str, turn: int) -> str:
    return f"{one} and {other}" if turn % 2 else f"{other} and {one}"


def all_texts(cfg: EraseConfig) -> tuple[str, ...]:
    """Every text that a run gives the text encoder."""
    told = [text for concept in cfg.concepts for text in phrasings(concept, cfg.templates)]
    told += [text for concept in cfg.concepts for pair in pairs(cfg, concept) for text in pair]
    told += [*retained_texts(cfg), cfg.neutral or "", *(cfg.anchors or ())]
    return tuple(dict.fromkeys(told))
