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
    """A small convolutional net, [N, 3, 64, 64] in [-1, 1] to one logit a label; the last label is "none".

    Two more heads on the same features name the drawing style and the background.
    """

    def __init__(self, labels: list[str], styles: list[str], backgrounds: list[str], width: int = 64):
        super().__init__()
        self.labels, self.styles, self.backgrounds = labels, styles, backgrounds
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
        self.style_head = nn.Linear(2 * channels, len(styles))
        self.background_head = nn.Linear(2 * channels, len(backgrounds))
        self.register_buffer("temperature", torch.ones(()))

    def pool(self, pixels: Tensor) -> Tensor:
        """Features [N, 8 * width] of pictures: mean and maximum of the last maps."""
        maps = self.features(pixels)
        return torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.pool(pixels)) / self.temperature


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
    style_ids: Tensor,
    background_ids: Tensor,
    *,
    steps: int,
    seed: int,
    work: Path,
    device: torch.device,
    batch_size: int = 64,
) -> None:
    """Binary cross-entropy a label, then a temperature fitted on the last tenth of the scenes.

    `targets` [N, labels] are 0/1; `style_ids` and `background_ids` [N] are indices, -1 for no style.
    """
    judge.to(device, memory_format=torch.channels_last).train()
    train = len(images) * 9 // 10

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((seed, step))
        rows = rng.integers(train, size=batch_size)
        pixels = augment(to_pixels(images[rows]), rng).to(device, memory_format=torch.channels_last)
        with autocast(device):
            pooled = judge.pool(pixels)
            logits = judge.head(pooled).float()
            style, background = judge.style_head(pooled).float(), judge.background_head(pooled).float()
        loss = F.binary_cross_entropy_with_logits(logits, targets[rows].to(device)) * len(judge.labels)
        loss = loss + 0.5 * F.cross_entropy(style, style_ids[rows].to(device), ignore_index=-1)
        return loss + 0.5 * F.cross_entropy(background, background_ids[rows].to(device))

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


@torch.no_grad()
def style_and_background(judge: Judge, images: np.ndarray) -> tuple[list[str], list[str]]:
    """The likeliest drawing style and the likeliest background of each uint8 picture [N, 64, 64, 3]."""
    device = next(judge.parameters()).device
    pooled = [judge.pool(part.to(device)) for part in to_pixels(images).split(128)]
    styles = torch.cat([judge.style_head(part).argmax(dim=1) for part in pooled])
    backgrounds = torch.cat([judge.background_head(part).argmax(dim=1) for part in pooled])
    return [judge.styles[i] for i in styles], [judge.backgrounds[i] for i in backgrounds]


@torch.no_grad()
def features(judge: Judge, images: np.ndarray) -> np.ndarray:
    """Pooled features [N, 8 * width] float64 of uint8 pictures [N, 64, 64, 3]."""
    device = next(judge.parameters()).device
    parts = [judge.pool(part.to(device)).double().cpu() for part in to_pixels(images).split(128)]
    return torch.cat(parts).numpy()


def save_reference(
    judge: Judge, folder: Path, scenes: np.ndarray, others: np.ndarray, captions: list[str]
) -> None:
    """Statistics of composed `scenes`, and the distance to them of `others`, whose captions are kept."""
    from kpop.emoji.quality import frechet

    known, fresh = features(judge, scenes), features(judge, others)
    mean, covariance = known.mean(0), np.cov(known.T)
    distance = frechet(fresh.mean(0), np.cov(fresh.T), mean, covariance)
    state = {"mean": torch.tensor(mean).float(), "covariance": torch.tensor(covariance).float()}
    save_file(state, folder / "reference.safetensors")
    told = {"scenes": len(scenes), "scenes_distance": distance, "captions": captions}
    (folder / "reference.json").write_text(json.dumps(told, indent=1) + "\n")


def load_reference(folder: Path) -> dict:
    """What `save_reference` wrote: "mean", "covariance", "scenes", "scenes_distance", "captions"."""
    state = load_file(folder / "reference.safetensors")
    arrays = {name: tensor.double().numpy() for name, tensor in state.items()}
    return arrays | json.loads((folder / "reference.json").read_text())


def save_judge(judge: Judge, folder: Path, accuracy: dict[str, float], scenes: int) -> None:
    """Write config.json and model.safetensors; `accuracy` in percent on `scenes` held-out scenes.

    `accuracy` has the keys "object" (single-object scenes and empty ones), "style" and "background".
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in judge.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    config = {"labels": judge.labels, "styles": judge.styles, "backgrounds": judge.backgrounds}
    config |= {"width": judge.features[0].out_channels, "held_out_scenes": scenes}
    config |= {
        "held_out_accuracy": round(accuracy["object"], 2),
        "held_out_style_accuracy": round(accuracy["style"], 2),
        "held_out_background_accuracy": round(accuracy["background"], 2),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def load_judge(folder: Path) -> tuple[Judge, dict]:
    """The judge and its config.json."""
    config = json.loads((folder / "config.json").read_text())
    judge = Judge(config["labels"], config["styles"], config["backgrounds"], config["width"])
    judge.load_state_dict(load_file(folder / "model.safetensors"))
    return judge.eval(), config
