"""Pictures of a prompt list and seeds: by the original model, the sanitized one, and that with the key."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import models
from .config import Concept, GenerationConfig, names
from .continual import key_files
from .drawing import OnStep, Row, count_steps, draw, safety_of
from .errors import InputError, RunError
from .hidden_prompt import HiddenPrompt, combine
from .key_sealing import load_key
from .prompt_attention import Recorder
from .safety_guidance import SafetyGuidance
from .weights import WeightDelta

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from PIL.Image import Image

    from .runs import Run

VARIANTS = ("original", "sanitized", "recovered")
Key = str | Path | Sequence[str] | HiddenPrompt | None


def generate(
    pipe: StableDiffusionPipeline,
    prompts: str | Sequence[str],
    seeds: int | Sequence[int],
    variant: str = "original",
    run: Run | str | Path | None = None,
    key: Key = "own",
    config: GenerationConfig | None = None,
    on_step: OnStep | None = None,
    recorder: Recorder | None = None,
    safety: str | SafetyGuidance = "strong",
    key_name: str | None = None,
) -> list[Image]:
    """Pictures, prompt-major (all seeds of the first prompt first), with what made them in `.info["kpop"]`.

    variant: original (theta), sanitized (theta'), recovered (theta' with p). run: whose weights and keys.
    key: "own" (the keys of the concepts that the prompt names, else all of the run's), None, one or several
    concept names, the path of a key file, or a key that is loaded. on_step(i, n) after each of n steps;
    raising in it cancels. key_name: what the pictures' text calls the key; None: see `_named`.
    recorder(layer, probs): see `attention_prompt`; the batch is [without text, with text].
    safety: strength of the guidance of an SLD run (safety_guidance.STRENGTHS); other runs have none.
    A seed's start noise is the same for every variant and batch. Raises InputError, RunError, ModelError.
    """
    prompts, seeds = _prompts(pipe, prompts), _seeds(seeds)
    config, run = _settings(pipe, config), _opened(run)
    delta = _delta(pipe, variant, run, key)
    keys = _keys(prompts, run, key, pipe, variant)
    told = (key_name or _named(key, run)) if variant == "recovered" else None
    rows = [Row(prompt, seed, variant, keys[prompt], told) for prompt in prompts for seed in seeds]
    steered = safety_of(run, safety) if variant != "original" else None
    return draw(pipe, rows, delta, run, config, on_step, recorder, steered)


def compare(
    pipe: StableDiffusionPipeline,
    prompts: str | Sequence[str],
    seeds: int | Sequence[int],
    run: Run | str | Path,
    key: Key = "own",
    config: GenerationConfig | None = None,
    variants: Sequence[str] | None = None,
    on_step: OnStep | None = None,
    safety: str | SafetyGuidance = "strong",
    key_name: str | None = None,
) -> dict[str, list[Image]]:
    """The same prompts and seeds by several variants: variant -> pictures as `generate` returns them.

    variants: None for all that the run's method leaves. Sanitized and recovered pictures share their batches,
    as rows without and with p.
    """
    prompts, seeds = _prompts(pipe, prompts), _seeds(seeds)
    pairs = [(prompt, seed) for prompt in prompts for seed in seeds]
    return compare_pairs(pipe, pairs, run, key, config, variants, on_step, safety, key_name)


def compare_pairs(
    pipe: StableDiffusionPipeline,
    pairs: Sequence[tuple[str, int]],
    run: Run | str | Path | None,
    key: Key = "own",
    config: GenerationConfig | None = None,
    variants: Sequence[str] | None = None,
    on_step: OnStep | None = None,
    safety: str | SafetyGuidance = "strong",
    key_name: str | None = None,
) -> dict[str, list[Image]]:
    """`compare` of prompts that have a seed each, as public prompt lists do: variant -> a picture a pair.

    Prompts are taken as they are: what the text encoder cannot read is cut off, as in the lists' own scripts.
    """
    config, run = _settings(pipe, config), _opened(run)
    if variants is None:
        variants = VARIANTS if run is None else run.method.variants
    deltas = {variant: _delta(pipe, variant, run, key) for variant in variants}
    prompts = list(dict.fromkeys(prompt for prompt, _ in pairs))
    groups = [[v for v in deltas if v == "original"], [v for v in deltas if v != "original"]]
    total = sum(count_steps(len(pairs) * len(group), config) for group in groups)
    found: dict[str, list[Image]] = {variant: [] for variant in variants}
    done = 0
    keys = {variant: _keys(prompts, run, key, pipe, variant) for variant in variants}
    for group in filter(None, groups):
        told = {"recovered": key_name or _named(key, run)}
        rows = [Row(prompt, seed, v, keys[v][prompt], told.get(v)) for prompt, seed in pairs for v in group]
        step = None if on_step is None else lambda i, n, start=done: on_step(start + i, total)
        steered = safety_of(run, safety) if "original" not in group else None
        images = draw(pipe, rows, deltas[group[0]], run, config, step, None, steered)
        for row, image in zip(rows, images, strict=True):
            found[row.variant].append(image)
        done += count_steps(len(rows), config)
    return found


# What is asked for


def _prompts(pipe: StableDiffusionPipeline, prompts: str | Sequence[str]) -> list[str]:
    found = [prompts] if isinstance(prompts, str) else list(prompts)
    if not found:
        raise InputError("There is no prompt; write at least one.")
    for prompt in dict.fromkeys(found):
        models.check_text(pipe, prompt)
    return found


def _seeds(seeds: int | Sequence[int]) -> list[int]:
    found = [seeds] if isinstance(seeds, int) else list(seeds)
    for seed in found:
        if isinstance(seed, bool) or int(seed) != seed or not 0 <= seed < 2**63:
            raise InputError(f"A seed is a whole number from 0, not {seed!r}.")
    if not found:
        raise InputError("There is no seed; give at least one.")
    return [int(seed) for seed in found]


def _settings(pipe: StableDiffusionPipeline, config: GenerationConfig | None) -> GenerationConfig:
    config = (config or GenerationConfig()).resolved(models.model_name(pipe))
    if config.negative_prompt:
        models.check_text(pipe, config.negative_prompt)
    return config


def _opened(run: Run | str | Path | None) -> Run | None:
    from .runs import open_run

    return None if run is None else open_run(run)


def _delta(pipe: StableDiffusionPipeline, variant: str, run: Run | None, key: Key) -> WeightDelta | None:
    """theta' in the U-Net's precision, or None for theta. Raises InputError, RunError."""
    if variant not in VARIANTS:
        raise InputError(f"variant must be one of {', '.join(VARIANTS)}, not {variant!r}.")
    if variant == "original":
        return None
    if run is None:
        if variant == "recovered" and _is_path(key, run):
            return None  # a released model is theta' already
        raise InputError(f"Name the run whose {variant} pictures you want.")
    if not run.has_result:
        raise RunError(f"Run {run.id} has no weights yet. Wait until it is done, or stop and keep it.")
    if not run.method.has_weights:
        if run.status.model_hash not in (None, models.model_hash(pipe)):
            raise InputError(f"Run {run.id} was made for {run.config.model}. Load that model.")
        return None
    stamp = (str(run.weights_path), run.weights_path.stat().st_mtime_ns)
    held = getattr(pipe, "_kpop_delta", None)
    if held is None or held[0] != stamp:
        delta = WeightDelta.load(run.weights_path)
        if delta.model_hash and delta.model_hash != models.model_hash(pipe):
            raise InputError(
                f"Run {run.id} was trained on {run.config.model}, and these are the weights of "
                "another model. Load the model the run was trained on."
            )
        held = (stamp, delta.to(pipe.unet.device, pipe.unet.dtype))
        pipe._kpop_delta = held
    return held[1]


def _is_path(key: Key, run: Run | None) -> bool:
    """Of what could be both, a name of the run's concepts goes first: "black/white"."""
    if isinstance(key, str) and (key.endswith(".safetensors") or os.sep in key):
        return run is None or _file_of(key, key_files(run)) is None
    return isinstance(key, Path)


def _keys(
    prompts: Sequence[str], run: Run | None, key: Key, pipe: StableDiffusionPipeline, variant: str
) -> dict[str, HiddenPrompt | None]:
    """What each prompt is drawn with: the key files are read once a prompt, not once a picture."""
    wanted = variant == "recovered"
    return {p: find_key(p, run, key, pipe) if wanted else None for p in dict.fromkeys(prompts)}


def find_key(prompt: str, run: Run | None, key: Key, pipe: StableDiffusionPipeline) -> HiddenPrompt | None:
    """The hidden prompt that `key` stands for with this prompt. Raises InputError, RunError."""
    if key is None or isinstance(key, HiddenPrompt):
        return key
    if _is_path(key, run):
        if not Path(key).is_file():
            raise InputError(f"There is no key file {Path(key).name!r}; check the path.")
        found = HiddenPrompt.load(Path(key))
        if run is not None and found.model_hash and found.model_hash != models.model_hash(pipe):
            raise InputError(f"The key {Path(key).name} belongs to another model than run {run.id}.")
        return found
    if run is None:
        raise InputError("Name the run whose key you want, or give the path of a key file.")
    files, named = key_files(run), []
    if key == "own":
        named = [c for c in files if any(_says(prompt, word) for word in names(c))]
        paths = [files.get(c) or run.key_path(c) for c in named or run.config.concepts]
    else:
        wanted = [key] if isinstance(key, str) else list(key)
        paths = [_file_of(name, files) or run.key_path(name) for name in wanted]
    paths = list(dict.fromkeys(paths))
    prompts = [load_key(run, path) for path in paths]
    alone = any(p.mechanism in ("additive", "amortized") for p in prompts)
    if key == "own" and len(prompts) > 1 and alone and not named:
        return None  # such keys exclude one another, and the prompt names none of them
    return combine(prompts) if prompts else None


def _named(key: Key, run: Run | None) -> str:
    """What a picture's text calls a key: "own", "none", concepts, "file" or "loaded"; never a path."""
    if key is None or isinstance(key, HiddenPrompt):
        return "none" if key is None else "loaded"
    if _is_path(key, run):
        return "file"
    return key if isinstance(key, str) else ", ".join(key)


def _file_of(name: str, files: dict[Concept, Path]) -> Path | None:
    asked = name.strip().lower()
    return next((files[c] for c in files if asked in map(str.lower, names(c))), None)


def _says(prompt: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word.lower())}(?!\w)", prompt.lower()) is not None
