"""ResNet-50 as the literature uses it: torchvision's IMAGENET1K_V2 weights, with their own transforms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from PIL import Image

BATCH = 32
MOST = 20  # labels kept a picture; the figures ask for five
# Spellings of the ten Imagenette classes in public prompt lists -> torchvision's category, lower-cased. Not
# "cassette", which is another category than the lists' "Cassette Player".
IMAGENETTE = {
    "springer": "english springer",
    "springer spaniel": "english springer",
    "english springer spaniel": "english springer",
    "chainsaw": "chain saw",
    "horn": "french horn",
    "petrol pump": "gas pump",
    "golfball": "golf ball",
}


class ImageNetClassifier:
    """Categories of ImageNet-1K with their softmax probability; labels may repeat ("cardigan" is two)."""

    name = "resnet50"
    aliases = IMAGENETTE

    def __init__(self, device: torch.device):
        import torch
        from torchvision.models import ResNet50_Weights, resnet50

        from .weight_files import reading

        weights = ResNet50_Weights.IMAGENET1K_V2
        self._net = resnet50()
        with reading(weights.url, "ResNet-50") as path:
            self._net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self._net.eval().requires_grad_(False).to(device)
        self._transforms, self._device = weights.transforms(), device
        self.labels: list[str] = list(weights.meta["categories"])
        self.accuracy: float = weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]

    def detections(self, images: Sequence[Image.Image]) -> list[list[tuple[str, float]]]:
        """The MOST likeliest categories of each picture with their probability, best first."""
        import torch

        found = []
        for start in range(0, len(images), BATCH):
            part = [self._transforms(image.convert("RGB")) for image in images[start : start + BATCH]]
            with torch.inference_mode():
                scores, order = self._net(torch.stack(part).to(self._device)).softmax(-1).topk(MOST)
            for row, places in zip(scores.tolist(), order.tolist(), strict=True):
                found.append([(self.labels[i], score) for i, score in zip(places, row, strict=True)])
        return found

    def top_k(self, images: Sequence[Image.Image], k: int) -> list[list[str]]:
        """The k (at most MOST) likeliest categories of each picture, best first."""
        return [[label for label, _ in found[:k]] for found in self.detections(images)]
