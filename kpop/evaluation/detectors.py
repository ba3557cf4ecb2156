"""What is in a picture, behind one interface: `.labels` and `.top_k(images, k)`."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from kpop.errors import InputError, ModelError
from kpop.model_table import family

NAMES = ("emoji", "resnet50", "nudenet")
LEAST_PROBABILITY = 0.05
FEW_LABELS = 60


def first_words(judge: "Detector | None", images: Sequence[Image.Image]) -> list[str]:
    """The likeliest label of each picture; "" without a judge."""
    if judge is None or not images:
        return [""] * len(images)
    return [labels[0] for labels in judge.top_k(images, 1)]


class Detector(Protocol):
    """Names what it sees; `accuracy` goes beside every figure.

    accuracy: percent right on held-out pictures, None where nobody measured it.
    aliases: other spellings of its labels, lower-cased -> the label lower-cased.
    """

    name: str
    labels: list[str]
    aliases: dict[str, str]
    accuracy: float | None

    def top_k(self, images: Sequence[Image.Image], k: int) -> list[list[str]]:
        """For each picture at most k labels, the likeliest first, never an empty list."""
        ...

    def detections(self, images: Sequence[Image.Image]) -> list[list[tuple[str, float]]]:
        """For each picture what was found with its score in 0 to 1, best first; empty where nothing was."""
        ...


def judge_for(model: str) -> str:
    """Name of the detector that names what a base model draws."""
    return "emoji" if family(model) == "emoji" else "resnet50"


def load(name: str = "emoji", device: str = "auto") -> Detector:
    """The detector called `name`: "emoji" (embedded), "resnet50" or "nudenet" (both on the CPU but ResNet).

    Raises InputError for an unknown one, ModelError when its weights or its package are missing.
    """
    if name == "resnet50":
        from ..models import pick_device
        from .imagenet_classifier import ImageNetClassifier

        return ImageNetClassifier(pick_device(device))
    if name == "nudenet":
        from .nudity_detector import NudeNet

        return NudeNet()
    if name != "emoji":
        raise InputError(f'There is no detector called "{name}"; known: {", ".join(NAMES)}.')
    return EmojiJudge(judge_folder())


def judge_folder() -> Path:
    """Where the embedded judge lies. Raises ModelError where it is missing."""
    from kpop.models import embedded_folder

    folder = embedded_folder() / "judge"
    if not (folder / "model.safetensors").is_file():
        raise ModelError(f"The embedded judge is missing from {folder}; restore assets/ from the repository.")
    return folder


def known_label(detector: Detector, word: str) -> str:
    """The detector's label for a word of a prompt list: case, "_" and known spellings do not matter.

    A label of its own comes before a spelling of another. Raises InputError with the nearest labels where it
    has none.
    """
    plain = " ".join(word.replace("_", " ").lower().split())
    lowered = {label.lower(): label for label in reversed(detector.labels)}  # the first of several alike
    found = lowered.get(plain) or lowered.get(detector.aliases.get(plain, ""))
    if found is None:
        raise unknown_label(word, detector.labels)
    return found


def unknown_label(word: str, labels: Sequence[str]) -> InputError:
    """What to say of a label that a detector does not have: all that it has, or the nearest of many."""
    if len(labels) <= FEW_LABELS:
        return InputError(f"The judge cannot see {word[:60]!r}; it knows: {', '.join(labels)}.")
    lowered = {label.lower(): label for label in labels}
    near = difflib.get_close_matches(word.lower(), lowered, n=3, cutoff=0.5)
    told = f" Nearest: {', '.join(lowered[name] for name in near)}." if near else ""
    return InputError(f"The judge cannot see {word[:60]!r}, which is none of its {len(labels)} labels.{told}")


@dataclass
class EmojiJudge:
    """The embedded judge (kpop.emoji.judge): objects of Emoji Diffusion's world, or "none"."""

    folder: Path
    labels: list[str] = field(init=False)
    accuracy: float = field(init=False)
    aliases: dict[str, str] = field(init=False)
    config: dict = field(init=False, repr=False)
    name = "emoji"

    def __post_init__(self):
        from kpop.emoji.judge import load_judge
        from kpop.emoji.world import THINGS

        self._judge, self.config = load_judge(self.folder)
        self.labels = self.config["labels"]
        self.accuracy = self.config["held_out_accuracy"]
        self.aliases = {other: thing.word for thing in THINGS for other in thing.synonyms}

    def probabilities(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Calibrated probabilities [N, labels]."""
        from kpop.emoji.judge import probabilities

        return probabilities(self._judge, _pixels(images))

    def style_and_background(self, images: Sequence[Image.Image]) -> tuple[list[str], list[str]]:
        """The likeliest drawing style and background of each picture."""
        from kpop.emoji.judge import style_and_background

        return style_and_background(self._judge, _pixels(images))

    def styles(self, images: Sequence[Image.Image]) -> list[str]:
        """The likeliest drawing style of each picture."""
        return self.style_and_background(images)[0]

    def features(self, images: Sequence[Image.Image]) -> np.ndarray:
        """The judge's own features [N, D], for distances between sets of pictures."""
        from kpop.emoji.judge import features

        return features(self._judge, _pixels(images))

    def reference(self) -> dict:
        """Of composed scenes: "mean" [D], "covariance" [D, D], "scenes_distance" and "captions"."""
        from kpop.emoji.judge import load_reference

        return load_reference(self.folder)

    @property
    def has_alignment(self) -> bool:
        """Whether the judge's CLIP is there."""
        return (self.folder / "clip" / "model.safetensors").is_file()

    def alignment(self, images: Sequence[Image.Image], texts: Sequence[str]) -> np.ndarray:
        """Cosines [N, N] of every picture and every text by the judge's own small CLIP. Not a CLIP score."""
        from kpop.emoji.alignment import cosines

        return cosines(*self._clip, _pixels(images), list(texts))

    @cached_property
    def _clip(self) -> tuple:
        import torch
        from transformers import CLIPModel, CLIPTokenizer

        folder = self.folder / "clip"
        clip = CLIPModel.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True).eval()
        return clip, CLIPTokenizer.from_pretrained(folder, local_files_only=True)

    def detections(self, images: Sequence[Image.Image]) -> list[list[tuple[str, float]]]:
        """Labels of probability 0.05 or more, likeliest first; "none" is one of them."""
        answers = []
        for row in self.probabilities(images) if len(images) else ():
            order = [int(i) for i in np.argsort(-row) if row[i] >= LEAST_PROBABILITY]
            answers.append([(self.labels[i], float(row[i])) for i in order])
        return answers

    def top_k(self, images: Sequence[Image.Image], k: int) -> list[list[str]]:
        """At most k labels a picture, of probability 0.05 or more, likeliest first; ["none"] for nothing."""
        return [[label for label, _ in found[:k]] or ["none"] for found in self.detections(images)]


def _pixels(images: Sequence[Image.Image]) -> np.ndarray:
    """uint8 [N, 64, 64, 3]."""
    resized = [image.convert("RGB").resize((64, 64), Image.Resampling.LANCZOS) for image in images]
    return np.stack([np.asarray(image) for image in resized])
