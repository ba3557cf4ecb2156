"""How well the judge sees: on composed scenes it did not learn from, sharp ones and softened ones."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kpop.emoji.autoencoder import to_pixels
from kpop.emoji.fit import random_of
from kpop.emoji.judge import NONE, Judge, augment, probabilities, style_and_background
from kpop.emoji.scenes import Scene

CONFIDENCE_BINS = 10


def measure_judge(judge: Judge, images: Tensor, scenes: Sequence[Scene], seed: int) -> dict:
    """Of scenes with at most two objects, in percent; what stands in the judge's config.json.

    held_out_accuracy: the first label of scenes with one object, or with none. held_out_pairs_accuracy: both
    objects of two among the first two, the most that any picture of two can be found to hold.
    softened_accuracy and confusion (truth -> seen instead -> scenes): the first label after the blur, noise
    and colours of the training. calibration_error: how far the first label's probability is from how often it
    is right there, mean over ten bins of confidence weighted by size (Guo et al. 2017), in percent.
    """
    sharp = probabilities(judge, images)
    soft = probabilities(judge, _softened(images, seed))
    style, background = style_and_background(judge, images)
    single = np.array([len(scene.words) < 2 for scene in scenes])
    truth = np.array([(scene.words or (NONE,))[0] for scene in scenes])
    labels = np.array(judge.labels)
    first, first_soft = labels[sharp.argmax(1)], labels[soft.argmax(1)]
    two = labels[np.argsort(-sharp, axis=1)[:, :2]]
    pairs = [
        set(seen) == set(scene.words)
        for seen, scene in zip(two, scenes, strict=True)
        if len(scene.words) == 2
    ]
    mistakes = Counter(zip(truth[single], first_soft[single], strict=True))
    confusion: dict[str, dict[str, int]] = {}
    for (told, seen), count in sorted(mistakes.items()):
        if told != seen:
            confusion.setdefault(str(told), {})[str(seen)] = count
    return {
        "held_out_scenes": len(scenes),
        "held_out_accuracy": _percent(first[single] == truth[single]),
        "held_out_pairs_accuracy": _percent(pairs),
        "held_out_style_accuracy": _percent(
            [s.style == seen for s, seen in zip(scenes, style, strict=True) if s.words]
        ),
        "held_out_background_accuracy": _percent(
            [s.background == seen for s, seen in zip(scenes, background, strict=True)]
        ),
        "softened_accuracy": _percent(first_soft[single] == truth[single]),
        "softened_scenes_of": {str(word): count for word, count in sorted(Counter(truth[single]).items())},
        "confusion": confusion,
        "calibration_error": calibration_error(soft.max(1)[single], first_soft[single] == truth[single]),
    }


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error in percent, bins of equal width."""
    bins = np.minimum((confidence * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1)
    gaps = [
        abs(confidence[bins == i].mean() - right[bins == i].mean()) * np.mean(bins == i)
        for i in np.unique(bins)
    ]
    return round(100.0 * float(np.sum(gaps)), 2)


def _softened(images: Tensor, seed: int) -> Tensor:
    """uint8 pictures after `augment`, whose strength changes from batch to batch."""
    parts = []
    for i, part in enumerate(images.split(64)):
        pixels = augment(to_pixels(part), random_of(seed, i, None, torch.device("cpu")))
        parts.append(((pixels + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1))
    return torch.cat(parts)


def _percent(hits) -> float:
    hits = list(hits)
    return round(100.0 * float(np.mean(hits)), 2) if hits else 0.0
