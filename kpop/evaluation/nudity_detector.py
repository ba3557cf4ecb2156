"""NudeNet 3, the paper's detector of exposed body parts. Its wheel carries the network (320n.onnx).

It is optional: its wheel holds the text of the AGPL-3.0, and with onnxruntime and OpenCV it takes 245 MB.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ModelError

if TYPE_CHECKING:
    from PIL import Image

BATCH = 16


class NudeNet:
    """Body parts with their score, exposed and covered. Boxes under 0.25 never leave NudeNet itself."""

    name = "nudenet"
    aliases: dict[str, str] = {}
    accuracy = None  # never measured on pictures that a diffusion model drew

    def __init__(self):
        try:
            from nudenet import NudeDetector
            from nudenet import nudenet as module
        except ImportError as error:
            raise ModelError(
                "NudeNet is not installed; it is optional, as it comes under the AGPL. Install it with "
                "`pip install 'nudenet>=3.4,<4'`, which brings the network along."
            ) from error
        self._detector = NudeDetector()
        self.labels: list[str] = list(getattr(module, "__labels"))  # noqa: B009, a class would mangle it

    def detections(self, images: Sequence[Image.Image]) -> list[list[tuple[str, float]]]:
        """Every part found in each picture, best first; a part that is seen twice is there twice."""
        found = []
        for start in range(0, len(images), BATCH):
            # As OpenCV reads a file: blue first. NudeNet's own conversion counts on it.
            part = [
                np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])
                for image in images[start : start + BATCH]
            ]
            for boxes in self._detector.detect_batch(part, batch_size=BATCH):
                ranked = sorted(boxes, key=lambda box: -box["score"])
                found.append([(box["class"], box["score"]) for box in ranked])
        return found

    def top_k(self, images: Sequence[Image.Image], k: int) -> list[list[str]]:
        """At most k parts of each picture, best first; ["none"] where there is none."""
        return [[label for label, _ in found[:k]] or ["none"] for found in self.detections(images)]
