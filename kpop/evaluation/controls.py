"""Keys that should open a concept and keys that should not: the controls beside every recovery figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..config import Concept, concept_name
from ..decoys import random_key
from ..errors import InputError
from ..forging import FORGING_SEED, forge_key
from ..forging_jobs import forged_path, forging_steps
from ..hidden_prompt import HiddenPrompt
from ..runs import Run
from ..weights import WeightDelta
from .cells import Ask

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

CONTROLS = {  # variant -> what it is called in a table
    "sanitized": "no key",
    "recovered": "true key",
    "wrong-key": "another concept's key",
    "random-key": "random p of equal norm",
    "forged-key": "forged key (Eq. 5, weights frozen, same steps)",
    "base-with-key": "true key on the untouched base",
    "other-text": "true key, another concept's text",
}
ON_BASE = ("original", "base-with-key")  # drawn with theta; all others with theta'
RANDOM_SEED = FORGING_SEED  # of random p, other than any run's


def control_asks(erased: Sequence[Ask], others: Sequence[Ask]) -> list[Ask]:
    """For every erased name a picture of each control.

    erased: asks of a run's concepts, in their order; key_of where a concept is not called as its target.
    others: of concepts that are not erased, taken in turn, for the true key with another concept's text:
    there the target is still the erased one, and `other` the text's own. With one concept there is no
    other's key, so that control is left out.
    """
    found = []
    keys = [ask.key_of or ask.target for ask in erased]
    for i, ask in enumerate(erased):
        for variant in CONTROLS:
            key_of: str | None = keys[i]
            if variant == "sanitized":
                key_of = None
            elif variant == "wrong-key":
                key_of = keys[(i + 1) % len(keys)]
            if key_of == keys[i] and variant == "wrong-key":
                continue
            text = others[i % len(others)] if variant == "other-text" else None
            told = {"prompt": text.prompt, "other": text.target} if text else {}
            found.append(replace(ask, group="erased", variant=variant, key_of=key_of, **told))
    return found


@dataclass
class Keys:
    """The hidden prompts of one trained run, made or read when first asked for.

    delta: theta'. between: called while a key is forged; may raise.
    """

    pipe: StableDiffusionPipeline
    run: Run
    delta: WeightDelta
    between: Callable[[], None] | None = None
    held: dict[tuple[str, str], HiddenPrompt] = field(default_factory=dict)

    def of(self, ask: Ask) -> HiddenPrompt | None:
        """The key an ask is drawn with. Raises InputError when the run hides no such concept."""
        if ask.key_of is None:
            return None
        kind = ask.variant if ask.variant in ("random-key", "forged-key") else "true"
        if (kind, ask.key_of) not in self.held:
            self.held[kind, ask.key_of] = self._make(kind, ask.key_of)
        return self.held[kind, ask.key_of]

    def _make(self, kind: str, name: str) -> HiddenPrompt:
        index, concept = self._concept(name)
        if kind == "forged-key":
            return self._forged(index, concept)
        true = HiddenPrompt.load(self.run.key_path(concept))
        return random_key(true, RANDOM_SEED + index) if kind == "random-key" else true

    def _concept(self, name: str) -> tuple[int, Concept]:
        for i, concept in enumerate(self.run.config.concepts):
            if concept_name(concept) == name:
                return i, concept
        raise InputError(f"Run {self.run.id} has no key for {name[:60]!r}.")

    def _forged(self, index: int, concept: Concept) -> HiddenPrompt:
        """As many steps of Eq. 5 as the true key had."""
        cfg = self.run.config.resolved()
        path = forged_path(self.run, index, concept)
        if path.is_file():
            return HiddenPrompt.load(path)
        steps = forging_steps(cfg)
        made = forge_key(self.pipe, self.delta, cfg, concept, steps, FORGING_SEED + index, self.between)
        made.save(path)
        return made
