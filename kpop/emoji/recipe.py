"""The numbers of a build, and what its stages share."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from kpop.disk import write_text
from kpop.emoji.scenes import Drawings, SceneSet
from kpop.emoji.world import held_out
from kpop.errors import KpopError
from kpop.models import file_hash
from kpop.processes import Processes

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Recipe:
    """Every number of a build from nothing; those of the shipped model stand in its build.json."""

    seed: int = 0
    size: int = 128
    latent_channels: int = 8
    vae_channels: tuple[int, ...] = (32, 64, 96, 128)
    unet_channels: tuple[int, ...] = (64, 96, 128)
    vae_scenes: int = 24_000
    vae_steps: int = 6_000
    vae_batch_size: int = 64
    judge_scenes: int = 60_000
    judge_steps: int = 4_000
    judge_batch_size: int = 256
    alignment_steps: int = 3_000
    alignment_batch_size: int = 256
    reference_scenes: int = 4_000
    scenes: int = 120_000
    pairs: float = 0.3
    steps: int = 10_000
    batch_size: int = 512
    learning_rate: float = 2e-3
    compile_unet: bool = True


# The fields that each stage's product depends on: one that was made with others is not taken for it.
_VAE = ("seed", "size", "latent_channels", "vae_channels", "vae_scenes", "vae_steps", "vae_batch_size")
_JUDGE = ("seed", "size", "judge_scenes")
STAGES = {
    "autoencoder": _VAE,
    "judge": (*_JUDGE, "judge_steps", "judge_batch_size", "reference_scenes"),
    "alignment": (*_JUDGE, "alignment_steps", "alignment_batch_size"),
    "latents": (*_VAE, "scenes", "pairs"),
    "denoiser": (*_VAE, "scenes", "pairs", "unet_channels", "steps", "batch_size", "learning_rate"),
}


@dataclass(frozen=True)
class Builder:
    """What all stages share. known: the world's drawings; others: distractors that the judge learns too.

    judge: the work folder of another build, whose judge and CLIP this one takes over; None makes its own.
    """

    recipe: Recipe
    work: Path
    known: Drawings
    others: Drawings
    start: Path | None
    device: torch.device
    processes: Processes
    judge: Path | None = None

    def place(self, stage: str) -> Path:
        """Where the stage's product lies or will lie. Raises KpopError where another recipe's is."""
        folder = self.work / stage
        stamp = folder / "recipe.json"
        if stamp.is_file() and json.loads(stamp.read_text()) != self._stamp(stage):
            raise KpopError(
                f"{folder} holds what another recipe made: give --work another folder, or delete it."
            )
        return folder

    def has(self, stage: str) -> bool:
        return (self.place(stage) / "recipe.json").is_file()

    def finish(self, stage: str) -> None:
        """Say that the product is whole. To be called by all processes."""
        if self.processes.leads:
            write_text(self.place(stage) / "recipe.json", json.dumps(self._stamp(stage)) + "\n")
        self.processes.wait()

    def _stamp(self, stage: str) -> dict:
        """The numbers that the stage's product was or will be made with."""
        if self.taken(stage):
            return json.loads((self.judge / stage / "recipe.json").read_text())
        found = {name: getattr(self.recipe, name) for name in STAGES[stage]}
        found["start"] = file_hash(self.start / "unet" / WEIGHTS_FILE) if self.start else None
        return json.loads(json.dumps(found))

    def taken(self, stage: str) -> bool:
        """Whether another build's product serves."""
        return self.judge is not None and stage in ("judge", "alignment")

    def stamps(self) -> dict[str, dict]:
        """The numbers behind every stage's product."""
        return {stage: self._stamp(stage) for stage in STAGES}

    def scenes(
        self, drawings: Drawings, count: int, number: int, shrink: int | None = None, **how
    ) -> SceneSet:
        """`count` scenes of the recipe's seed; `number` tells those of different uses apart."""
        how = {"size": self.recipe.size} | how
        return SceneSet(drawings, count, (self.recipe.seed, number), shrink, how)

    @property
    def seen(self) -> Drawings:
        """What the denoiser learns from: without the pairs that are held out."""
        return {pair: drawing for pair, drawing in self.known.items() if not held_out(*pair)}

    @property
    def workers(self) -> int:
        return os.cpu_count() or 1
