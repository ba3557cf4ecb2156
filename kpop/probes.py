"""What a run shows of itself while it trains: how near p is to each text, and sample pictures."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from . import models
from .config import EraseConfig, GenerationConfig, concept_name, names
from .disk import disk_error
from .drawing import Row, Safety, draw, safety_of
from .evaluation.metrics import raw_cosine, seen_cosine
from .hidden_prompt import HiddenPrompt
from .mechanisms import contributed
from .precision import precision_context
from .prompt_attention import find_cross_attention, site_names
from .run_texts import retained_texts, shown_text
from .weights import WeightDelta

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from PIL.Image import Image

    from .runs import Run

SIBLINGS = 4
SAMPLE_SEEDS = (0, 1)


class Cosines:
    """Two cosines of p to each concept, a few siblings and the neutral text (paper, Fig. 4a).

    raw: mean over p's k blocks of cos(block, C), each flattened; of a token cos of its mean state and the
    words' mean state. seen: mean over the sites of cos(mean W_v p - o, mean W_v C over word tokens - o),
    o = mean W_v C of ''. p of a token is its states behind the text '', and f(c) is taken of that text.
    """

    def __init__(self, pipe: StableDiffusionPipeline, cfg: EraseConfig):
        self.pipe, self.unet = pipe, pipe.unet
        self.sites = sorted(site_names(pipe.unet, cfg.sites or "down-mid-up"))
        siblings = [name for concept in cfg.retain for name in names(concept)][:SIBLINGS]
        self.owners = {concept_name(concept): i for i, concept in enumerate(cfg.concepts)}
        texts = list(dict.fromkeys([*self.owners, *siblings, cfg.neutral, ""]))
        self.texts = texts if "" == cfg.neutral else texts[:-1]
        states = models.encode(pipe, [*self.texts, ""]).to(pipe.unet.device, torch.float32)
        self.states, self.empty = dict(zip(self.texts, states[:-1], strict=True)), states[-1]
        tokenizer = pipe.tokenizer
        self.words = {}
        for text in self.texts:
            count = len(tokenizer(text, truncation=True, max_length=tokenizer.model_max_length)["input_ids"])
            self.words[text] = slice(1, count - 1) if count > 2 else slice(None)

    @torch.no_grad()
    def __call__(self, prompts: Sequence[HiddenPrompt]) -> dict[str, dict[str, float]]:
        """{"raw": {text: cosine}, "seen": {text: cosine}}; the U-Net must hold theta'.

        A concept's text is compared with its own p, every other text with all, averaged.
        """
        modules = find_cross_attention(self.unet)
        raw, seen = {}, {}
        for text in self.states:
            mine = text in self.owners
            asked = [prompts[self.owners[text] % len(prompts)]] if mine else list(prompts)
            brought = [contributed(self.pipe, p, "", self.states[text]).float() for p in asked]
            raw[text] = _mean([self._raw(p, own, text) for p, own in zip(asked, brought, strict=True)])
            seen[text] = _mean(
                [self._seen(modules[site].to_v, own, text) for own in brought for site in self.sites]
            )
        return {"raw": raw, "seen": seen}

    def _raw(self, p: HiddenPrompt, brought: Tensor, text: str) -> float:
        states = self.states[text]
        if p.mechanism == "token":
            return float(F.cosine_similarity(brought.mean(0), states[self.words[text]].mean(0), dim=0))
        return raw_cosine(brought if p.mechanism == "amortized" else p.key[0].float(), states)

    def _seen(self, project: torch.nn.Module, p: Tensor, text: str) -> float:
        return seen_cosine(p, self.states[text][self.words[text]], self.empty, project.weight.float())


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


class _Stopped(Exception):
    """A stop was asked for amid the drawing."""


class Samples:
    """Same seeds at chosen steps, in samples/step_NNNNN/{original,sanitized,recovered,kept}.png.

    There is no recovered strip where the method leaves no key, nor at step 0, where nothing is learned yet.
    stopped: whether a stop is asked for, once True always True: then nothing more is drawn.
    """

    def __init__(
        self,
        pipe: StableDiffusionPipeline,
        cfg: EraseConfig,
        run: Run,
        precision: str,
        stopped: Callable[[], bool],
    ):
        self.pipe, self.cfg, self.run, self.precision, self.stopped = pipe, cfg, run, precision, stopped
        self.config = GenerationConfig().resolved(cfg.model)
        several = len(cfg.concepts) > 1
        self.asked = [
            (shown_text(cfg, c), seed)
            for c in cfg.concepts[:4]
            for seed in (SAMPLE_SEEDS[:1] if several else SAMPLE_SEEDS)
        ]
        self.kept = [(text, SAMPLE_SEEDS[0]) for text in retained_texts(cfg)[: len(self.asked)]]
        self.original: list[Image] | None = None

    def begin(self) -> None:
        """Draw and write step 0, once, while the U-Net holds theta. Raises RunError."""
        asked = [Row(text, seed, "original", None) for text, seed in (*self.asked, *self.kept)]
        pictures, count = self._draw(asked, None), len(self.asked)
        if pictures is None:
            return
        self.original = pictures[:count]
        self._write(0, {"original": self.original, "sanitized": self.original, "kept": pictures[count:]})

    def due(self, step: int) -> bool:
        """Whether there are samples of that step."""
        return step > 0 and (step % self.cfg.sample_every == 0 or step == self.cfg.steps)

    def left_out(self, step: int) -> bool:
        """Whether some are due at that step and not in the folder: the run ended before they were drawn."""
        names = {"original", "sanitized"} | ({"kept"} if self.kept else set())
        names |= {"recovered"} if self.run.method.has_key else set()
        return self.due(step) and not names <= dict(self.run.samples()).get(step, {}).keys()

    def save(self, step: int, delta: WeightDelta | None, prompts: Sequence[HiddenPrompt]) -> None:
        """Draw and write one folder; delta: theta', if any; prompts: the keys, if any. Raises RunError."""
        unet = self.pipe.unet
        delta = None if delta is None else delta.to(unet.device, unet.dtype)
        keyed = [
            Row(
                text,
                seed,
                "recovered",
                prompts[i // max(1, len(self.asked) // len(self.cfg.concepts)) % len(prompts)],
            )
            for i, (text, seed) in enumerate(self.asked if prompts else ())
        ]
        plain = [Row(text, seed, "sanitized", None) for text, seed in (*self.asked, *self.kept)]
        pictures = self._draw([*plain, *keyed], delta, safety_of(self.run))
        if pictures is None:
            return
        count = len(self.asked)
        strips = {
            "original": self.original,
            "sanitized": pictures[:count],
            "recovered": pictures[len(plain) :],
            "kept": pictures[count : len(plain)],
        }
        self._write(step, strips)

    def _write(self, step: int, strips: dict[str, list[Image]]) -> None:
        folder = self.run.path / "samples" / f"step_{step:05d}"
        for name, images in strips.items():
            if images:
                _write_png(_strip(images), folder / f"{name}.png")

    def _draw(
        self, rows: list[Row], delta: WeightDelta | None, safety: Safety | None = None
    ) -> list[Image] | None:
        """None as soon as a stop is asked for."""

        def look(*_: int) -> None:
            if self.stopped():
                raise _Stopped

        try:
            look()
            with precision_context(self.pipe.unet, self.precision) if rows else nullcontext():
                return draw(self.pipe, rows, delta, None, self.config, look, None, safety)
        except _Stopped:
            return None


def _strip(images: list[Image]) -> Image:
    from PIL import Image

    strip = Image.new("RGB", (sum(image.width for image in images), images[0].height))
    left = 0
    for image in images:
        strip.paste(image, (left, 0))
        left += image.width
    return strip


def _write_png(image: Image, path: Path) -> None:
    data = io.BytesIO()
    image.save(data, "PNG")
    waiting = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        waiting.write_bytes(data.getvalue())
        os.replace(waiting, path)
    except OSError as error:
        raise disk_error(error, path.parent) from error
