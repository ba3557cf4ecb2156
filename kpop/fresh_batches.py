"""Rows of a training step from new rollouts with the model as it is by then: the paper's own way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .batches import ALONE, Batch, Batches, Rows, keyed
from .config import EraseConfig
from .continual import Forgotten
from .hidden_prompt import HiddenPrompt
from .mechanisms import reading
from .precision import precision_context
from .processes import Processes
from .trajectories import Sampler, rollout

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


class FreshBatches(Batches):
    """The paper's own way: a new partial rollout with the current theta' at each step.

    sanitized: context in which the U-Net holds theta'. Rollouts are guided, without p, from fresh noise, and
    go towards the concept; towards the neutral text where the method erases on that alone.
    """

    def __init__(
        self,
        pipe: StableDiffusionPipeline,
        cfg: EraseConfig,
        sampler: Sampler,
        sanitized: Callable[[], AbstractContextManager],
        earlier: Sequence[Forgotten] = (),
        processes: Processes = ALONE,
    ):
        super().__init__(pipe, cfg, earlier, processes)
        self.sampler, self.sanitized = sampler, sanitized

    @torch.no_grad()
    def draw(self, step: int) -> Batch:
        """The rows of a step; all of them at one timestep."""
        cfg, index = self.cfg, self.concept_of(step)
        until = keyed(cfg.seed, step, "timestep").randrange(self.sampler.steps)
        texts, noise, aims = [], [], []
        empty = list(dict.fromkeys((self.neutral, "")))  # guidance asks for eps(z, '') whatever is neutral
        for row in self.own_rows:
            text, aim = self.erased_of(step, row, keyed(cfg.seed, step, row))
            texts.append(text)
            aims.append(aim)
            noise.append(self._noise(step, row))
        told = len(texts)
        if self.retained or self.keeps_neutral:
            for row in self.own_rows:
                kept = self.retain_of(step, row)
                texts.append(keyed(cfg.seed, step, row, "empty").choice(empty) if kept is None else kept)
                noise.append(self._noise(step, self.all_rows + row))
        states = torch.stack([self.state(text) for text in texts])
        neutral = torch.stack([self.state(text) for text in aims])
        towards, whither = states.clone(), list(texts)
        if "concept" not in self.erase_on:
            towards[:told], whither[:told] = neutral, aims
        with self.sanitized():
            z, timesteps, *_ = rollout(
                self.pipe, whither, towards, self.state("")[None], torch.cat(noise), self.sampler, until
            )
        t = int(timesteps[until])
        own = self._teacher(z, t, states)
        plain = self._teacher(z[:told], t, neutral)
        rows = [(z[i], t, texts[i], own[i]) for i in range(len(texts))]
        erase = [(z[i], t, texts[i], self.erased(texts[i], plain[i], own[i])) for i in range(told)]
        kept = self.rows(rows[told:]) if rows[told:] else None
        earlier = self._earlier(step, until)
        keys = self.keys_seen(step, 1, kept is not None)
        return Batch(index, self.rows(rows[:told]), self.rows(erase), kept, neutral, earlier, *keys)

    def _earlier(self, step: int, until: int) -> tuple[HiddenPrompt, Rows] | None:
        if not self.earlier:
            return None
        key, text, _ = self.earlier_of(step)
        count = self.cfg.batch_size
        states, texts = self.state(text)[None].expand(count, -1, -1), [text] * count
        noise = torch.cat([self._noise(step, row, "earlier") for row in self.own_rows])
        with self.sanitized():
            z, timesteps, *_ = rollout(
                self.pipe, texts, states, self.state("")[None], noise, self.sampler, until, key=key
            )
        t = int(timesteps[until])
        opened = self._teacher(z, t, states, texts, key)
        return key, self.rows([(z[i], t, text, opened[i]) for i in range(count)])

    def _teacher(
        self, z: Tensor, t: int, states: Tensor, texts: Sequence[str] = (), key: HiddenPrompt | None = None
    ) -> Tensor:
        unet = self.pipe.unet
        with (
            precision_context(unet, self.sampler.precision),
            reading(self.pipe, key, texts, states) as read,
        ):
            return unet(z.to(unet.dtype), t, encoder_hidden_states=read, return_dict=False)[0].float()

    def _noise(self, step: int, row: int, kind: str = "noise") -> Tensor:
        unet = self.pipe.unet.config
        seed = keyed(self.cfg.seed, step, row, kind).getrandbits(63)
        shape = (1, unet.in_channels, unet.sample_size, unet.sample_size)
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
