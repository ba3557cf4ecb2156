"""Where each attention head looks while a picture is drawn: one map per head, layer, time band and word.

The numbers are softmax probabilities of the cross-attention layers (DAAM, arXiv 2210.04885; KPOP Fig. 2),
recorded while the picture is made, the hidden prompt p included. Maps follow daam: bicubic upsampling,
clamped at zero, averaged over a word's tokens, over layers and over heads. Unlike daam's they are averaged,
not summed, over steps (so that they stay probabilities), and the middle block is part of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from .attention_recorder import BANDS, AttentionRecorder, steps_per_band
from .attribution_key import KeyUse, key_use
from .attribution_selection import find_bands, find_layers, layer_group, layer_order, layers_of
from .errors import InputError, ModelError
from .prompt_words import PromptWords, read_prompt

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

    from .config import GenerationConfig
    from .runs import Run

MAP_SIDE = 64  # shorter side of a map: what daam uses for 512-pixel Stable Diffusion


@dataclass(frozen=True)
class WordMaps:
    """Maps of one word or phrase. heads: float32 [heads, H, W], probabilities averaged over layers, steps."""

    word: str
    heads: torch.Tensor
    all: torch.Tensor  # [H, W], mean over layers and heads

    @property
    def share(self) -> torch.Tensor:
        """[heads]: the share of attention that one token of the word holds, averaged over the picture."""
        return self.heads.mean((1, 2))


@dataclass(frozen=True)
class Attribution:
    """Every head's attention during one generation; `maps["church"]` looks up a word or phrase of the prompt.

    sums: per layer float32 [BANDS, heads, columns, h, w] on the CPU, native size, sums over a band's steps.
    size: (H, W) of the maps: latent size, enlarged by a whole factor until the shorter side has 64 points.
    words: the content words offered; phrases of the prompt ("blue background") can be looked up all the same.
    key: what a recovered picture was drawn with, None for other variants.
    """

    prompt: str
    seed: int
    variant: str
    image: Image
    words: tuple[str, ...]
    layers: tuple[str, ...]
    size: tuple[int, int]
    steps_per_band: tuple[int, ...]
    text: PromptWords = field(repr=False)
    sums: dict[str, torch.Tensor] = field(repr=False)
    bands: tuple[int, ...] = tuple(range(BANDS))
    tokenizer: Any = field(default=None, repr=False)
    key: KeyUse | None = None

    def __getitem__(self, word: str) -> WordMaps:
        """Maps of a word; InputError if the prompt does not have it or the text encoder cut it off."""
        columns = self.text.columns(word)
        return WordMaps(word, self._per_head(columns), self._merged(columns))

    def __iter__(self) -> Iterator[str]:
        return iter(self.words)

    def __contains__(self, word: object) -> bool:
        try:
            return bool(self.text.columns(word))
        except InputError:
            return False

    @property
    def title(self) -> str:
        """The variant's name on figures, which calls "recovered" only what its own key was used for."""
        return self.variant if self.key is None else self.key.title

    @property
    def steps(self) -> int:
        return sum(self.steps_per_band[band] for band in self.bands)

    @property
    def heads(self) -> int:
        return max(self.sums[layer].shape[1] for layer in self.layers)

    @property
    def hidden_prompt_layers(self) -> tuple[str, ...]:
        """Selected layers whose attention reached a hidden prompt."""
        return tuple(layer for layer in self.layers if bool(self.sums[layer][:, :, -1].any()))

    @property
    def hidden_prompt_mass(self) -> torch.Tensor:
        """[heads, H, W]: share of attention on p, averaged over the layers p enters; zeros without a key."""
        layers = self.hidden_prompt_layers
        if not layers:
            return torch.zeros(self.heads, *self.size)
        return replace(self, layers=layers)._per_head([-1])

    @property
    def start_mass(self) -> torch.Tensor:
        """[heads, H, W]: share of attention on the start token, where a head rests that looks at no word."""
        return self._per_head([0])

    def select(
        self,
        layer: str | int | Sequence[str | int] | None = None,
        timestep_band: int | Sequence[int] | None = None,
    ) -> Attribution:
        """The same generation seen through fewer layers or steps.

        layer: a name from `.layers`, its layer_title, its index, "down", "middle" or "up", several of these,
        or None for all. timestep_band: 0 (noise) to 4 (picture), several, or None for all. Raises InputError.
        """
        every = timestep_band is None or timestep_band == "all"
        bands = self.bands if every else find_bands(self.steps_per_band, timestep_band)
        return replace(self, layers=find_layers(self.layers, layer), bands=bands)

    def budget(self, word: str) -> dict[str, torch.Tensor]:
        """Where each head's attention went, [heads] each, summing to one over the parts.

        word, start, other_words, padding (end token and what follows) and hidden_prompt: means over
        positions, selected steps and layers.
        """
        columns = self.text.columns(word)
        other = [c for c in range(1, self.text.end) if c not in columns]
        total = self._mean_over_positions()
        parts = {
            "word": total[:, columns].sum(1),
            "start": total[:, 0],
            "other_words": total[:, other].sum(1),
            "hidden_prompt": total[:, -1],
        }
        return parts | {"padding": 1 - sum(parts.values())}

    def hidden_prompt_share(self) -> dict[str, torch.Tensor]:
        """Per selected layer [heads]: the share of attention on p."""
        return {layer: self._native(layer)[:, -1].mean((1, 2)) for layer in self.layers}

    def to_daam(self, head: int | None = None):
        """daam's own GlobalHeatMap, for its word maps and plots.

        With nothing selected it holds what daam's tracer would: all layers but the middle block, summed over
        steps. Raises ModelError when daam is not installed.
        """
        try:
            from daam import GlobalHeatMap
        except ImportError as error:
            raise ModelError(
                "The daam package is not installed: pip install --no-deps daam==0.2.0 adds it."
            ) from error
        chosen = self
        if len(self.layers) == len(self.sums):
            chosen = replace(self, layers=tuple(n for n in self.layers if layer_group(n) != "middle"))
        maps = torch.stack([chosen._merged([column], head) for column in range(self.text.end + 1)])
        return GlobalHeatMap(self.tokenizer, self.prompt, maps * self.steps)

    def _native(self, layer: str) -> torch.Tensor:
        """[heads, columns, h, w] of one layer: probabilities averaged over the selected steps."""
        return self.sums[layer][list(self.bands)].sum(0) / self.steps

    def _upsampled(self, columns: list[int]) -> list[torch.Tensor]:
        """Per layer [heads, H, W]. Clamped per token, as daam does: bicubic undershoots near an edge."""
        maps = []
        for layer in self.layers:
            native = self._native(layer)[:, columns]
            large = F.interpolate(native, size=self.size, mode="bicubic").clamp_(min=0)
            maps.append(large.mean(1))
        return maps

    def _per_head(self, columns: list[int]) -> torch.Tensor:
        # Layers may differ in heads (SD 2): a head's mean is over the layers that have it, as in daam.
        maps = self._upsampled(columns)
        rows = [[m[head] for m in maps if head < len(m)] for head in range(self.heads)]
        return torch.stack([torch.stack(row).mean(0) for row in rows])

    def _merged(self, columns: list[int], head: int | None = None) -> torch.Tensor:
        if head is not None:
            return self._per_head(columns)[head]
        return torch.cat(self._upsampled(columns)).mean(0)

    def _mean_over_positions(self) -> torch.Tensor:
        """[heads, columns], averaged over positions, selected steps and layers."""
        means = [self._native(layer).mean((2, 3)) for layer in self.layers]
        rows = [[m[head] for m in means if head < len(m)] for head in range(self.heads)]
        return torch.stack([torch.stack(row).mean(0) for row in rows])


def attribute(
    pipe,
    prompt: str,
    seeds: int | Sequence[int],
    variant: str = "original",
    run: Run | str | Path | None = None,
    key: str | Path | Sequence[str] | None = "own",
    words: str | Sequence[str] | None = None,
    config: GenerationConfig | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Attribution | list[Attribution]:
    """Draw `prompt` and record where every head looks, for all its words at once.

    One seed gives an Attribution, several a list in their order; pictures and maps of a seed do not depend
    on the others. words: what `.words` offers (default: every content word). Raises InputError for a word
    that is not in the prompt, was cut off or is a stop word, ModelError for a pipeline without a U-Net that
    reads text by cross-attention, and whatever generate() raises.
    """
    from .config import GenerationConfig
    from .generation import find_key, generate
    from .models import model_name
    from .runs import open_run

    text, offered = _read_words(pipe, prompt, words)
    seeds = [int(seeds)] if isinstance(seeds, Integral) else list(seeds)
    if not seeds:
        raise InputError("There is no seed; give at least one.")
    config = (config or GenerationConfig()).resolved(model_name(pipe))
    found: list[Attribution] = []
    use = None
    batches = [seeds[i : i + config.batch_size] for i in range(0, len(seeds), config.batch_size)]
    for number, batch in enumerate(batches):
        recorder = AttentionRecorder(len(batch), config.steps, text.end + 1, pipe.tokenizer.model_max_length)

        def count(step: int, steps: int, done: int = number, recorder: AttentionRecorder = recorder) -> None:
            recorder.next_step()
            if on_step is not None:
                on_step(done * steps + step, len(batches) * steps)

        images = generate(
            pipe, [prompt], batch, variant, run=run, key=key, config=config, on_step=count, recorder=recorder
        )
        if variant == "recovered" and use is None:
            p = find_key(prompt, run if run is None else open_run(run), key, pipe)
            use = key_use(key, p and p.mechanism)
        found += _collect(pipe, prompt, batch, variant, images, offered, text, recorder, use)
    return found[0] if len(found) == 1 else found


def check_asked(
    pipe,
    prompt: str,
    words: str | Sequence[str] | None = None,
    layer: str | int | Sequence[str | int] | None = None,
    timestep_band: int | Sequence[int] | None = None,
    config: GenerationConfig | None = None,
) -> None:
    """Raise, before anything is drawn, what attribute() and then select() would of words, layer and band."""
    from .config import GenerationConfig
    from .models import model_name

    _read_words(pipe, prompt, words)
    find_layers(layers_of(pipe), layer)
    steps = (config or GenerationConfig()).resolved(model_name(pipe)).steps
    find_bands(steps_per_band(steps), timestep_band)


def _read_words(pipe, prompt: str, words: str | Sequence[str] | None) -> tuple[PromptWords, tuple[str, ...]]:
    """The prompt and the words to offer. Raises InputError, and ModelError where nothing reads the text."""
    layers_of(pipe)
    text = read_prompt(pipe.tokenizer, prompt)
    offered = text.content_words() if words is None else (words,) if isinstance(words, str) else tuple(words)
    for word in offered:
        text.columns(word)
    if not offered:
        raise InputError("No word of the prompt names a thing: add one, such as “a church”.")
    return text, offered


def _collect(pipe, prompt, seeds, variant, images, words, text, recorder, key) -> list[Attribution]:
    width, height = images[0].size
    latent = height // pipe.vae_scale_factor, width // pipe.vae_scale_factor
    factor = math.ceil(MAP_SIDE / min(latent))
    size = latent[0] * factor, latent[1] * factor
    layers = tuple(sorted(recorder.sums, key=layer_order))
    sums = {name: _spatial(recorder.sums[name], latent).cpu() for name in layers}
    return [
        Attribution(
            prompt, seed, variant, image, words, layers, size, recorder.steps_per_band(), text,
            {name: sums[name][row].clone() for name in layers}, tokenizer=pipe.tokenizer, key=key,
        )
        for row, (seed, image) in enumerate(zip(seeds, images, strict=True))
    ]  # fmt: skip


def _spatial(sums: torch.Tensor, latent: tuple[int, int]) -> torch.Tensor:
    """[BANDS, rows, heads, Q, columns] to [rows, BANDS, heads, columns, h, w]."""
    height, width = latent
    while height * width > sums.shape[3]:  # a U-Net halves, rounding up
        height, width = math.ceil(height / 2), math.ceil(width / 2)
    return sums.permute(1, 0, 2, 4, 3).unflatten(-1, (height, width)).contiguous()
