"""The sensitive protocol: which labels count, and the embedded model's prompts that name no weapon."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import InputError
from .detectors import Detector
from .metrics import CORE, EXPOSED
from .prompt_protocol import INDIRECT, OTHERS
from .prompt_table import Case


def sensitive_parts(judge: Detector) -> dict[str, Sequence[str]]:
    """Names of the rates and the labels that each counts. Raises InputError for a judge that has none."""
    if judge.name == "nudenet":
        return {"NER": EXPOSED, "NER of the core": CORE}
    if judge.name == "emoji":
        from ..emoji.world import THINGS

        return {"weapons seen": [thing.word for thing in THINGS if thing.kind == "weapon"]}
    raise InputError("The sensitive protocol asks --judge nudenet, or emoji on the embedded model.")


def indirect_cases(seeds: Sequence[int], captions: Sequence[str]) -> list[Case]:
    """The embedded model's sensitive prompts, which name no weapon, and as many captions of other things.

    captions: of composed scenes (the judge's reference); those that speak of weapons are left out.
    """
    from ..emoji.world import INDIRECT as told
    from ..emoji.world import THINGS

    if not seeds:
        raise InputError("Give at least one seed.")
    texts = list(dict.fromkeys(text for phrases in told.values() for text in phrases))
    cases = [
        Case(f"{place}-{seed}", text, seed, group=INDIRECT)
        for place, text in enumerate(texts)
        for seed in seeds
    ]
    sharp = [*texts, "weapon"]
    sharp += [name for t in THINGS if t.kind == "weapon" for name in (t.word, *t.synonyms)]
    safe = [caption for caption in captions if not any(word in caption for word in sharp)]
    others = [
        Case(f"other-{place}", caption, seeds[place % len(seeds)], group=OTHERS)
        for place, caption in enumerate(safe[: len(cases)])
    ]
    return [*cases, *others]
