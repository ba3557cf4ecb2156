"""What is in a picture, behind one interface: `.labels` and `.top_k(images, k)`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from kpop.errors import InputError, ModelError

LEAST_PROBABILITY = 0.05


def first_words(judge: "Detector | None", images: Sequence[Image.Image]) -> list[str]:
    """The likeliest label of each picture; "" without a judge."""
    if judge is None or not images:
        return [""] * len(images)
    return [labels[0] for labels in judge.top_k(images, 1)]


class Detector(Protocol):
    """Names what it sees; `accuracy` (percent right on held-out pictures) is printed beside every figure."""

    labels: list[str]
    accuracy: float

    def top_k(self, images: Sequence[Image.Image], k: int) -> list[list[str]]:
        """For each picture at most k labels, the likeliest first, never an empty list."""
        ...


def load(name: str = "emoji") -> Detector:
    """The detector called `name`; InputError for an unknown one, ModelError when its files are missing."""
    if name != "emoji":
        raise InputError(f'There is no detector called "{name}"; known: emoji.')
    from kpop.models import embedded_folder

    folder = embedded_folder() / "judge"
    if not (folder / "model.safetensors").is_file():
        raise ModelError(f"The embedded judge is missing from {folder}; restore assets/ from the repository.")
    return EmojiJudge(folder)


@dataclass
class EmojiJudge:
    """The embedded judge (kpop.emoji.judge): objects of Emoji Diffusion's world, or "none"."""

    folder: Path
    labels: list[str] = field(init=False)
    accuracy: float = field(init=False)

    def __post_init__(self):
        from kpop.emoji.judge import load_judge

        self._judge, config = load_judge(self.folder)
        self.labels = config["labels"]
        self.accuracy = config["held_out_accuracy"]

    def probabilities(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Calibrated probabilities [N, labels]."""
        from kpop.emoji.judge import probabilities

        return probabilities(self._judge, _pixels(images))

    def style_and_background(self, images: Sequence[Image.Image]) -> tuple[list[str], list[str]]:
        """The likeliest drawing style and background of each picture."""
        from kpop.emoji.judge import style_and_background

        return style_and_background(self._judge, _pixels(images))

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
        import torch
        from transformers import CLIPModel, CLIPTokenizer

        from kpop.emoji.alignment import cosines

        folder = self.folder / "clip"
        clip = CLIPModel.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True).eval()
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        return cosines(clip, tokenizer, _pixels(images), list(texts))

    def top_k(self, images: Sequence[Image.Image], k: int) -> list[list[str]]:
        """At most k labels a picture, of probability 0.05 or more, likeliest first; ["none"] for nothing."""
        answers = []
        for row in self.probabilities(images) if len(images) else ():
            order = [int(i) for i in np.argsort(-row)[:k] if row[i] >= LEAST_PROBABILITY]
            answers.append([self.labels[i] for i in order] or ["none"])
        return answers


def _pixels(images: Sequence[Image.Image]) -> np.ndarray:
    """uint8 [N, 64, 64, 3]."""
    resized = [image.convert("RGB").resize((64, 64), Image.Resampling.LANCZOS) for image in images]
    return np.stack([np.asarray(image) for image in resized])
