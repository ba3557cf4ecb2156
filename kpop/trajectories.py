"""Where z_t and the frozen model's targets come from: a bank of guided rollouts, or fresh rollouts of theta'.

A guided rollout of the frozen model already computes eps(z_t, c) and eps(z_t, ''), so the bank keeps z_t and
both; a training step then runs theta' only. Made once, kept on disk by (model hash, text, sampler).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import models
from .errors import KpopError, RunError
from .hidden_prompt import HiddenPrompt
from .mechanisms import reading
from .precision import precision_context
from .prompt_attention import attention_prompt
from .tensor_files import read_tensors, write_tensors

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

FORMAT = 1
MOST_ROWS = 16  # rows of one forward pass while the bank is filled
CACHE_LIMIT = 4 * 2**30  # bytes; the trajectories used longest ago go first


@dataclass(frozen=True)
class Sampler:
    """How trajectories are made: deterministic DDIM over the model's noise levels.

    steps: sampling steps; guidance: of classifier-free guidance; precision: fp32, bf16 or fp16.
    """

    steps: int
    guidance: float
    precision: str = "fp32"


@dataclass(frozen=True)
class Trajectories:
    """Rollouts of one text. z: [S, N, C, h, w] before each step; timesteps: [S]; noisiest first.

    eps: text -> what the frozen model says at (z, t) with that text, [S, N, C, h, w]; the rollout's own text
    and '' are always there.
    """

    text: str
    timesteps: Tensor
    z: Tensor
    eps: dict[str, Tensor]


def noise_levels(pipe: StableDiffusionPipeline) -> Tensor:
    """alpha-bar of every training timestep, float32 [num_train_timesteps] on the CPU."""
    return ddim(pipe, 1).alphas_cumprod.float()


def ddim(pipe: StableDiffusionPipeline, steps: int):
    """A deterministic DDIM scheduler over the model's own noise levels."""
    from .drawing import make_scheduler

    return make_scheduler(pipe, "ddim", steps)


@torch.no_grad()
def rollout(
    pipe: StableDiffusionPipeline,
    texts: Sequence[str],
    states: Tensor,
    empty: Tensor,
    noise: Tensor,
    sampler: Sampler,
    until: int | None = None,
    between: Callable[[], None] | None = None,
    key: HiddenPrompt | None = None,
) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor], list[Tensor]]:
    """Guided DDIM from `noise` [B, C, h, w] with `states` [B, 77, d_c] of `texts`, and `empty` [1, 77, d_c].

    until: stop before this step (index into the timesteps). key: seen beside the texts, not beside ''.
    Returns the latents reached, all timesteps [S], and per step taken the latents before it, eps(z, text)
    and eps(z, ''), float32.
    """
    device = pipe.unet.device
    scheduler = ddim(pipe, sampler.steps)
    z = noise.to(device, torch.float32) * scheduler.init_noise_sigma
    count = len(texts)
    both, prompts = torch.cat([empty.expand_as(states), states]), [*[""] * count, *texts]
    sees = torch.arange(2 * count, device=device) >= count
    before, told, plain = [], [], []
    with precision_context(pipe.unet, sampler.precision), reading(pipe, key, prompts, both, sees) as read:
        # The scheduler gets numbers: it looks at them on the CPU, and would wait for a GPU to tell.
        for i, (t, at) in enumerate(zip(scheduler.timesteps, scheduler.timesteps.tolist(), strict=True)):
            if until is not None and i >= until:
                break
            if between is not None:
                between()
            latents = torch.cat([z, z]).to(pipe.unet.dtype)
            out = pipe.unet(latents, t, encoder_hidden_states=read, return_dict=False)[0]
            e_0, e_n = out.float().chunk(2)
            before.append(z)
            told.append(e_n)
            plain.append(e_0)
            z = scheduler.step(e_0 + sampler.guidance * (e_n - e_0), at, z, return_dict=False)[0]
    return z, scheduler.timesteps, before, told, plain


class Bank:
    """Trajectories of the frozen model, computed when first asked for and kept on disk.

    pipe's U-Net must hold theta whenever `get` is called. digest: names theta (models.model_hash, and the
    weights of a base run). folder: of the cache, None for none. A cache that cannot be written is no error.
    """

    def __init__(
        self,
        pipe: StableDiffusionPipeline,
        sampler: Sampler,
        digest: str,
        folder: Path | None,
        between: Callable[[], None] | None = None,
    ):
        self.pipe, self.sampler, self.digest, self.folder, self.between = (
            pipe,
            sampler,
            digest,
            folder,
            between,
        )
        self.rows_computed = 0

    def get(
        self, text: str, count: int, targets: Sequence[str] = (), key: HiddenPrompt | None = None
    ) -> Trajectories:
        """`count` trajectories of `text`, with eps for every text of `targets` too; tensors on the CPU.

        With a key, of `text` as the key opens it, its own eps too; what a secret opens is not kept on disk.
        """
        if key is not None:
            return self._roll(text, count, key)
        place = self._place(text, count)
        found = self._read(place, text)
        if found is None:
            found = self._roll(text, count)
            tensors = {"z": found.z, "timesteps": found.timesteps}
            tensors |= {f"eps{i}": e for i, e in enumerate(found.eps.values())}
            self._write(place, tensors, {"texts": json.dumps(list(found.eps))})
        for other in dict.fromkeys(targets):
            if other not in found.eps:
                found.eps[other] = self._target(found, other)
        return found

    def _target(self, at: Trajectories, text: str) -> Tensor:
        """eps(z, text) at every z of `at`, in a file of its own: who asks for one text reads no other's."""
        place, eps = self._place(at.text, at.z.shape[1], text), None
        try:
            if place is not None and place.is_file():
                eps = read_tensors(place)[0]["eps"]
                os.utime(place)
        except (RunError, KeyError, OSError):
            eps = None  # damaged: computed again
        if eps is None or eps.shape != at.z.shape:
            eps = self._evaluate(at, text)
            self._write(place, {"eps": eps}, {})
        return eps

    def _roll(self, text: str, count: int, key: HiddenPrompt | None = None) -> Trajectories:
        states = models.encode(self.pipe, [text, ""]).to(self.pipe.unet.device, self.pipe.unet.dtype)
        size = self.pipe.unet.config.sample_size
        shape = (1, self.pipe.unet.config.in_channels, size, size)
        noise = torch.cat([torch.randn(shape, generator=_generator(text, i)) for i in range(count)])
        parts = []
        for chunk in noise.split(max(1, MOST_ROWS // 2)):
            rolled = rollout(
                self.pipe,
                [text] * len(chunk),
                states[:1].expand(len(chunk), -1, -1),
                states[1:],
                chunk,
                self.sampler,
                between=self.between,
                key=key,
            )
            parts.append([torch.stack(rows).cpu() for rows in rolled[2:]])
            self.rows_computed += 2 * len(chunk) * self.sampler.steps
        z, told, plain = (torch.cat(rows, 1) for rows in zip(*parts, strict=True))
        return Trajectories(text, rolled[1].cpu().long(), z, {"": plain, text: told})

    @torch.no_grad()
    def _evaluate(self, at: Trajectories, text: str) -> Tensor:
        """eps(z, text) of the frozen model at every stored z."""
        unet = self.pipe.unet
        states = models.encode(self.pipe, [text]).to(unet.device, unet.dtype)
        found = []
        for z, t in zip(at.z, at.timesteps, strict=True):
            rows = []
            for chunk in z.split(MOST_ROWS):
                if self.between is not None:
                    self.between()
                with precision_context(unet, self.sampler.precision), attention_prompt(unet):
                    out = unet(
                        chunk.to(unet.device, unet.dtype),
                        t.to(unet.device),
                        return_dict=False,
                        encoder_hidden_states=states.expand(len(chunk), -1, -1),
                    )[0]
                rows.append(out.float().cpu())
                self.rows_computed += len(chunk)
            found.append(torch.cat(rows))
        return torch.stack(found)

    def _place(self, text: str, count: int, target: str | None = None) -> Path | None:
        """The file of a text's trajectories, or of what another text says on them."""
        if self.folder is None:
            return None
        config = {k: v for k, v in sorted(self.pipe.scheduler.config.items()) if not k.startswith("_")}
        told = [FORMAT, self.digest, text, count, asdict(self.sampler), config]
        key = json.dumps(told if target is None else [*told, target], default=str)
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"

    def _read(self, place: Path | None, text: str) -> Trajectories | None:
        if place is None or not place.is_file():
            return None
        try:
            tensors, about = read_tensors(place)
            texts = json.loads(about["texts"])
            os.utime(place)
            eps = {other: tensors[f"eps{i}"] for i, other in enumerate(texts) if other in (text, "")}
            found = Trajectories(text, tensors["timesteps"], tensors["z"], eps)
        except (RunError, KeyError, ValueError, OSError):
            return None  # damaged: computed again
        sound = text in eps and "" in eps and all(e.shape == found.z.shape for e in eps.values())
        return found if sound else None

    def _write(self, place: Path | None, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
        if place is None:
            return
        try:
            write_tensors(place, tensors, about)
            _tidy(place.parent)
        except (KpopError, OSError):
            return


def cache_folder() -> Path:
    """Where trajectories are kept: KPOP_CACHE, or the user's cache folder."""
    import platformdirs

    chosen = os.environ.get("KPOP_CACHE")
    return (
        Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("kpop-studio"))
    ) / "trajectories"


def _tidy(folder: Path) -> None:
    files = sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime, reverse=True)
    total = 0
    for path in files:
        total += path.stat().st_size
        if total > CACHE_LIMIT:
            path.unlink(missing_ok=True)


def _generator(text: str, index: int) -> torch.Generator:
    """Start noise that no seed of a picture shares, so that pictures judge what training never saw."""
    digest = hashlib.sha256(f"trajectory\n{text}\n{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
