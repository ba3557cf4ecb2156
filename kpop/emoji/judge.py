"""The judge: names the objects in a picture. It learns from composed scenes, never from generated ones."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kpop.emoji.autoencoder import to_pixels
from kpop.emoji.fit import autocast, fit, random_of
from kpop.emoji.scenes import Scene
from kpop.processes import Processes

NONE = "none"
SIDE = 64  # pixels; larger pictures are made smaller for the judge


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


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, noise, colour, contrast and small shifts, one strength a batch: generated pictures are softer."""
    size, count, device = pixels.shape[-1], len(pixels), pixels.device
    # The batch's own strengths come from a generator on the CPU: asking a GPU for a number waits for it.
    strengths = np.random.default_rng(generator.initial_seed())
    if strengths.random() < 0.6:
        small = int(size * strengths.uniform(0.4, 1.0))
        pixels = F.interpolate(
            pixels, size=(small, small), mode="bilinear", antialias=True, align_corners=False
        )
        pixels = F.interpolate(pixels, size=(size, size), mode="bilinear", align_corners=False)
    gain = 0.7 + 0.5 * torch.rand((count, 3, 1, 1), generator=generator, device=device)
    shift = 0.5 * torch.rand((count, 3, 1, 1), generator=generator, device=device) - 0.25
    noise = torch.randn(pixels.shape, generator=generator, device=device)
    pixels = pixels * gain + shift + strengths.uniform(0, 0.12) * noise
    down, across = strengths.integers(-4, 5, 2)
    return torch.roll(pixels, (int(down), int(across)), dims=(2, 3)).clamp(-1, 1)


@dataclass(frozen=True)
class Lessons:
    """What the judge learns from: pictures uint8 [N, 64, 64, 3], 0/1 targets [N, labels], indices [N] of
    style and background, -1 for no style.
    """

    images: Tensor
    targets: Tensor
    style_ids: Tensor
    background_ids: Tensor

    def to(self, device: torch.device) -> "Lessons":
        return Lessons(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def lessons_of(images: Tensor, scenes: Sequence[Scene], judge: Judge) -> Lessons:
    """Scenes and their pictures as the judge of these labels learns from them."""
    return Lessons(
        images,
        torch.tensor([targets_of(scene.words, judge.labels) for scene in scenes]),
        torch.tensor([judge.styles.index(s.style) if s.words else -1 for s in scenes]),
        torch.tensor([judge.backgrounds.index(s.background) for s in scenes]),
    )


def train_judge(
    judge: Judge,
    lessons: Lessons,
    *,
    steps: int,
    seed: int,
    work: Path,
    device: torch.device,
    batch_size: int = 64,
    processes: Processes | None = None,
) -> None:
    """Binary cross-entropy a label, then a temperature fitted on the last tenth of the lessons."""
    judge.to(device, memory_format=torch.channels_last).train()
    lessons = lessons.to(device)
    train = len(lessons.images) * 9 // 10

    def loss_of(step: int) -> Tensor:
        generator = random_of(seed, step, processes, device)
        rows = torch.randint(train, (batch_size,), generator=generator, device=device)
        pixels = augment(to_pixels(lessons.images[rows]), generator)
        with autocast(device):
            pooled = judge.pool(pixels.contiguous(memory_format=torch.channels_last))
            logits = judge.head(pooled).float()
            style, background = judge.style_head(pooled).float(), judge.background_head(pooled).float()
        loss = F.binary_cross_entropy_with_logits(logits, lessons.targets[rows]) * len(judge.labels)
        loss = loss + 0.5 * F.cross_entropy(style, lessons.style_ids[rows], ignore_index=-1)
        return loss + 0.5 * F.cross_entropy(background, lessons.background_ids[rows])

    fit("judge", judge, loss_of, steps=steps, learning_rate=3e-3, work=work, processes=processes)
    judge.eval()
    held_out = augment(to_pixels(lessons.images[train:]), random_of(seed, steps, None, device))
    targets = lessons.targets[train:]
    with torch.no_grad():
        logits = torch.cat([judge(part).float() for part in held_out.split(256)])
    grid = torch.linspace(0.5, 3.0, 51)
    losses = torch.stack([F.binary_cross_entropy_with_logits(logits / float(t), targets) for t in grid])
    judge.temperature.fill_(float(grid[int(losses.argmin())]))


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


def save_judge(judge: Judge, folder: Path, measured: dict) -> None:
    """Write config.json, which holds what was `measured` beside the labels, and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in judge.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    config = {"labels": judge.labels, "styles": judge.styles, "backgrounds": judge.backgrounds}
    config |= {"width": judge.features[0].out_channels} | measured
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def load_judge(folder: Path) -> tuple[Judge, dict]:
    """The judge and its config.json."""
    config = json.loads((folder / "config.json").read_text())
    judge = Judge(config["labels"], config["styles"], config["backgrounds"], config["width"])
    judge.load_state_dict(load_file(folder / "model.safetensors"))
    return judge.eval(), config
