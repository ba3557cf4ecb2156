"""Numbers for pictures that need no label: how well they fit their text, how far they are from others.

CLIP score, LPIPS, FID and KID are torchmetrics'. On the embedded model, whose pictures of 64 pixels these
networks do not know, distances on the judge's features stand in, and are named "judge ...".
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError, ModelError

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from .detectors import Detector

CLIP = "openai/clip-vit-base-patch32"
CLIP_FILES = ("*.json", "*.txt", "model.safetensors", "pytorch_model.bin")
NAMES = ("clip", "lpips", "fid")
FEATURES = 2048  # of the Inception network: with fewer pictures their covariance has no full rank
BATCH = 16
SUBSETS = 100

PerPicture = Callable[[Sequence["Image"], Sequence], "list[float]"]


@dataclass(frozen=True)
class Scores:
    """What is measured beside the labels, each with its name; None where it is not asked for.

    text: pictures, texts -> a score a picture. base: pictures, the base model's of the same prompts and seeds
    -> a distance a picture. sets: two streams of pictures and the count of the smaller -> name, distance; the
    judge's may go without the second, which are composed scenes then. apart: `text` is asked too for a row's
    label alone, an artist, and for its prompt without the label, as the authors' scripts do.
    """

    text: tuple[str, PerPicture] | None = None
    base: tuple[str, PerPicture] | None = None
    sets: Callable[[Iterable[Image], Iterable[Image] | None, int], tuple[str, float]] | None = None
    apart: bool = False


def load_scores(names: Sequence[str], judge: Detector | None, device: str = "auto") -> Scores:
    """The scores of NAMES; for the embedded judge its own instead, whatever part of them can be had.

    Raises InputError for an unknown name, or any on the embedded model; ModelError where weights are missing.
    """
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise InputError(f"There is no score {unknown[0][:40]!r}; known: {', '.join(NAMES)}.")
    if judge is not None and judge.name == "emoji":
        if set(names) - {"fid"}:
            raise InputError(
                "CLIP score and LPIPS say nothing of the embedded model's small pictures; leave --scores "
                "out, and distances on the judge's features stand in."
            )
        return _of_judge(judge)
    from ..models import pick_device

    where = pick_device(device)
    return Scores(
        text=("CLIP score", clip_score(where)) if "clip" in names else None,
        base=("LPIPS to base", lpips(where)) if "lpips" in names else None,
        sets=inception_distance(where) if "fid" in names else None,
    )


def clip_score(device: torch.device) -> PerPicture:
    """100 * cosine of picture and text by CLIP ViT-B/32, as torchmetrics' CLIPScore. Raises ModelError."""
    from torchmetrics.multimodal import CLIPScore
    from transformers import CLIPModel, CLIPProcessor

    from .weight_files import hub_folder

    class Plain(CLIPModel):
        """With features as tensors, which torchmetrics 1.9 counts on and transformers 5 wraps."""

        def get_image_features(self, *args, **more):
            return super().get_image_features(*args, **more).pooler_output

        def get_text_features(self, *args, **more):
            return super().get_text_features(*args, **more).pooler_output

    folder = hub_folder(CLIP, CLIP_FILES, "The CLIP score")
    try:
        parts = Plain.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{CLIP} in {folder} cannot be read; delete it and fetch it again.") from error
    metric = CLIPScore(lambda: parts).to(device)

    def score(images: Sequence[Image], texts: Sequence[str]) -> list[float]:
        found = []
        for image, text in zip(images, texts, strict=True):  # the metric keeps a sum, and we want each
            metric.update(_tensor([image]).to(device), [text])
            found.append(float(metric.compute()))
            metric.reset()
        return found

    return score


def lpips(device: torch.device) -> PerPicture:
    """LPIPS (alex) between pictures of one size, at that size, as torchmetrics'. Raises ModelError."""
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    from torchvision.models import AlexNet_Weights

    from .weight_files import reading

    with reading(AlexNet_Weights.DEFAULT.url, "LPIPS"):
        metric = LearnedPerceptualImagePatchSimilarity("alex", reduction="none", normalize=True).to(device)

    def distance(images: Sequence[Image], others: Sequence[Image]) -> list[float]:
        found = []
        for image, other in zip(images, others, strict=True):
            if image.size != other.size:
                raise InputError(
                    f"LPIPS compares pictures of one size, not {image.size} with the base's {other.size}."
                )
            metric.update(*(_tensor([one]).to(device) / 255 for one in (image, other)))
            found.append(float(metric.compute()))
            metric.reset()
        return found

    return distance


def inception_distance(device: torch.device):
    """FID, or KID where there are fewer than 2048 pictures, between two streams. Raises ModelError.

    KID: mean over SUBSETS subsets of at most 1000 pictures, drawn with a fixed seed.
    """
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    from .weight_files import reading, torch_file

    torch_file(URL_INCEPTION_V3, "FID")

    def distance(images: Iterable[Image], references: Iterable[Image], count: int) -> tuple[str, float]:
        few = count < FEATURES
        with reading(URL_INCEPTION_V3, "FID"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that KID holds its features: it is for few pictures
            metric = (
                KernelInceptionDistance(subsets=SUBSETS, subset_size=min(1000, count))
                if few
                else FrechetInceptionDistance(FEATURES)
            ).to(device)
        for stream, real in ((references, True), (images, False)):
            for batch in _same_size(stream):
                metric.update(_tensor(batch).to(device), real=real)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            found = metric.compute()
        return ("KID", float(found[0])) if few else ("FID", float(found))

    return distance


def _of_judge(judge) -> Scores:
    from ..emoji.quality import frechet

    def text(images: Sequence[Image], texts: Sequence[str]) -> list[float]:
        return [100.0 * float(cosine) for cosine in np.diag(judge.alignment(images, texts))]

    def base(images: Sequence[Image], others: Sequence[Image]) -> list[float]:
        one, other = judge.features(images), judge.features(others)
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        return (1.0 - (one * other).sum(1) / lengths.clip(min=1e-12)).tolist()

    def sets(images: Iterable[Image], references: Iterable[Image] | None, count: int) -> tuple[str, float]:
        def moments(stream: Iterable[Image]) -> tuple[np.ndarray, np.ndarray]:
            features = np.concatenate([judge.features(part) for part in _parts(stream)])
            return features.mean(0), np.cov(features.T)

        if references is None:  # the composed scenes that the judge comes with
            scenes = judge.reference()
            against = scenes["mean"], scenes["covariance"]
        else:
            against = moments(references)
        return "judge Fréchet distance", frechet(*moments(images), *against)

    return Scores(
        text=("judge CLIP", text) if judge.has_alignment else None,
        base=("judge distance to base", base),
        sets=sets,
    )


def _parts(images: Iterable[Image]) -> Iterator[list[Image]]:
    part: list[Image] = []
    for image in images:
        part.append(image)
        if len(part) == BATCH:
            yield part
            part = []
    if part:
        yield part


def _same_size(images: Iterable[Image]) -> Iterator[list[Image]]:
    for _, alike in groupby(images, key=lambda image: image.size):
        yield from _parts(alike)


def _tensor(images: Sequence[Image]) -> torch.Tensor:
    """uint8 [N, 3, H, W] of pictures of one size."""
    import torch

    pixels = np.stack([np.array(image.convert("RGB")) for image in images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)
