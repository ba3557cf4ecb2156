"""The judge: names the objects in a picture. It learns from composed scenes, never from generated ones."""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kpop.emoji.autoencoder import to_pixels
from kpop.emoji.fit import autocast, fit

NONE = "none"


class Judge(nn.Module):
    """A small convolutional net, [N, 3, 64, 64] in [-1, 1] to one logit a label; the last label is "none"."""

    def __init__(self, labels: list[str], width: int = 48):
        super().__init__()
        self.labels = labels
        layers, channels = [], 3
        for out, stride in (
            (width, 2),
            (width, 1),
            (2 * width, 2),
            (2 * width, 1),
            (4 * width, 2),
            (4 * width, 1),
        ):
            layers += [nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            channels = out
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(2 * channels, len(labels))
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, pixels: Tensor) -> Tensor:
        maps = self.features(pixels)
        pooled = torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1)
        return self.head(pooled) / self.temperature


def targets_of(words: tuple[str, ...], labels: list[str]) -> list[float]:
    """One 0/1 a label; "none" is 1 when no object is there."""
    present = set(words or (NONE,))
    return [float(label in present) for label in labels]


def augment(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Blur, noise, colour, contrast and small shifts, one strength a batch: generated pictures are softer."""
    size = pixels.shape[-1]
    if rng.random() < 0.6:
        small = int(size * rng.uniform(0.4, 1.0))
        pixels = F.interpolate(
            pixels, size=(small, small), mode="bilinear", antialias=True, align_corners=False
        )
        pixels = F.interpolate(pixels, size=(size, size), mode="bilinear", align_corners=False)
    count = len(pixels)
    gain = torch.from_numpy(rng.uniform(0.7, 1.2, (count, 3, 1, 1)).astype(np.float32))
    shift = torch.from_numpy(rng.uniform(-0.25, 0.25, (count, 3, 1, 1)).astype(np.float32))
    noise = torch.from_numpy(rng.normal(0, rng.uniform(0, 0.12), pixels.shape).astype(np.float32))
    pixels = pixels * gain + shift + noise
    down, across = rng.integers(-4, 5, 2)
    return torch.roll(pixels, (int(down), int(across)), dims=(2, 3)).clamp(-1, 1)


def train_judge(
    judge: Judge,
    images: np.ndarray,
    targets: Tensor,
    *,
    steps: int,
    seed: int,
    work: Path,
    device: torch.device,
    batch_size: int = 64,
) -> None:
    """Binary cross-entropy a label, then a temperature fitted on the last tenth of the scenes."""
    judge.to(device, memory_format=torch.channels_last).train()
    train = len(images) * 9 // 10

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((seed, step))
        rows = rng.integers(train, size=batch_size)
        pixels = augment(to_pixels(images[rows]), rng).to(device, memory_format=torch.channels_last)
        with autocast(device):
            logits = judge(pixels).float()
        return F.binary_cross_entropy_with_logits(logits, targets[rows].to(device)) * len(judge.labels)

    fit("judge", judge, loss_of, steps=steps, learning_rate=3e-3, work=work)
    judge.eval()
    held_out = augment(to_pixels(images[train:]), np.random.default_rng((seed, steps)))
    with torch.no_grad():
        logits = torch.cat([judge(part.to(device)).float() for part in held_out.split(256)]).cpu()
    grid = torch.linspace(0.5, 3.0, 51)
    losses = torch.stack([F.binary_cross_entropy_with_logits(logits / t, targets[train:]) for t in grid])
    judge.temperature.fill_(float(grid[losses.argmin()]))


@torch.no_grad()
def probabilities(judge: Judge, images: np.ndarray) -> np.ndarray:
    """Calibrated probability [N, labels] of each label in uint8 pictures [N, 64, 64, 3]."""
    device = next(judge.parameters()).device
    parts = [judge(part.to(device)).sigmoid().float().cpu() for part in to_pixels(images).split(128)]
    return torch.cat(parts).numpy()


def save_judge(judge: Judge, folder: Path, accuracy: float, scenes: int) -> None:
    """Write config.json and model.safetensors; `accuracy` in percent on `scenes` held-out scenes."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in judge.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    config = {"labels": judge.labels, "width": judge.features[0].out_channels}
    config |= {"held_out_accuracy": round(accuracy, 2), "held_out_scenes": scenes}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def load_judge(folder: Path) -> tuple[Judge, dict]:
    """The judge and its config.json."""
    config = json.loads((folder / "config.json").read_text())
    judge = Judge(config["labels"], config["width"])
    judge.load_state_dict(load_file(folder / "model.safetensors"))
    return judge.eval(), config
