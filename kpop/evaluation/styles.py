"""The style protocol of the embedded model: objects in a run's drawing styles, judged by the style seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from ..config import EraseConfig, is_style, names
from ..errors import InputError
from ..run_texts import phrase
from .detectors import EmojiJudge
from .prompt_table import Case
from .splits import style_objects

OBJECTS = 4  # that no phrasing of the styles preset names


@dataclass
class StyleJudge(EmojiJudge):
    """The embedded judge asked for drawing styles: one label a picture, so that k makes no difference."""

    def __post_init__(self):
        super().__post_init__()
        self.labels = [f"{style} style" for style in self.config["styles"]]
        self.accuracy, self.aliases = self.config["held_out_style_accuracy"], {}

    def detections(self, images: Sequence[Image.Image]) -> list[list[tuple[str, float]]]:
        """The likeliest style of each picture."""
        if not images:
            return []
        return [[(f"{style} style", 1.0)] for style in self.styles(images)]


def styles_of(config: EraseConfig) -> tuple[str, ...]:
    """The drawing styles among what a run erases and retains."""
    told = [name for concept in (*config.concepts, *(config.retain or ())) for name in names(concept)]
    return tuple(dict.fromkeys(name for name in told if is_style(name)))


def style_cases(config: EraseConfig, seeds: Sequence[int]) -> list[Case]:
    """OBJECTS objects in every style of a run, a picture a seed. Raises InputError where it has no style."""
    styles = styles_of(config)
    if not styles or not seeds:
        raise InputError("The style protocol needs a run that erases a drawing style, and at least one seed.")
    prompts = [
        (f"{phrase('a {}', word)}, {style}", style) for style in styles for word in style_objects(OBJECTS)
    ]
    return [
        Case(f"{place}-{seed}", prompt, seed, label=style)
        for place, (prompt, style) in enumerate(prompts)
        for seed in seeds
    ]
