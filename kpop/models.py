"""Base models: how one is found, checked, loaded and named."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import InputError, ModelError
from .loaded_weights import remember
from .model_table import (
    EMBEDDED,
    MODELS,
    ModelSpec,
    embedded_folder,
    family,
    generation_defaults,
    read_json,
    recommended,
)
from .model_words import (
    KPOP_FIELDS,
    by_meaning,
    check_text,
    encode,
    known_words,
    nearest_words,
    tokens_of,
    unknown_words,
)

if TYPE_CHECKING:
    import torch
    from diffusers import StableDiffusionPipeline

__all__ = [
    "EMBEDDED",
    "MODELS",
    "ModelError",
    "ModelSpec",
    "by_meaning",
    "check_text",
    "embedded_folder",
    "encode",
    "family",
    "file_hash",
    "generation_defaults",
    "known_words",
    "load_pipeline",
    "model_folder",
    "model_hash",
    "model_name",
    "nearest_words",
    "pick_device",
    "public_name",
    "read_json",
    "recommended",
    "tokens_of",
    "unknown_words",
    "weight_files",
]

PARTS = ("unet", "vae", "text_encoder")  # folders of weights


def load_pipeline(model: str = "emoji", device: str = "auto", dtype: str = "auto") -> StableDiffusionPipeline:
    """The base model, ready to draw, without safety checker.

    model: a name of MODELS, a local diffusers folder, or a hub id. device: auto | cpu | cuda | mps.
    dtype: auto | fp32 | bf16 | fp16 (auto: fp32 but on CUDA). Safetensors only; nothing remote is executed.
    Raises ModelError with what to do when it cannot be found, read or placed.
    """
    import torch
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import logging as diffusers_logging
    from safetensors import SafetensorError
    from transformers.utils import logging as transformers_logging

    where = pick_device(device)
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if dtype not in (*kinds, "auto"):
        raise InputError(f"dtype must be auto, fp32, bf16 or fp16, not {dtype!r}.")
    kind = kinds.get(dtype, torch.float32)
    if dtype == "auto" and where.type == "cuda":
        kind = torch.bfloat16 if cuda_has_bf16() else torch.float16
    folder = model_folder(model)
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
    except (
        OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, MemoryError, SafetensorError,
    ) as error:  # fmt: skip
        told = _device_failed(error, folder, where) or _first_line(error)
        raise ModelError(f"The model {_short(model)} could not be loaded: {told}") from error
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
    remember(pipe)
    return pipe


def cuda_has_bf16() -> bool:
    """Whether the CUDA card computes in bf16; torch also says yes to cards that only imitate it, as a T4."""
    import torch

    return torch.cuda.is_bf16_supported(including_emulation=False)


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


def model_folder(model: str) -> Path:
    """Where the model's files are, fetched from the hub if need be. Raises ModelError."""
    if model == "emoji":
        folder = embedded_folder()
        if not folder.is_dir():
            raise ModelError(f"The embedded model is missing from {folder}; fetch the repository again.")
        return folder
    if model and Path(model).is_dir():
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
        raise ModelError(
            f"{_short(model)} is not a diffusers model: it has no model_index.json. "
            "Give a folder that diffusers saved, with safetensors weights."
        )
    kind = read_json(index).get("_class_name")
    if kind != "StableDiffusionPipeline":
        raise ModelError(f"{_short(model)} is a {kind}; only StableDiffusionPipeline models can be used.")
    for part in PARTS:
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
    for name in ("tokenizer/tokenizer_config.json", "scheduler/scheduler_config.json"):
        if not (folder / name).is_file():
            raise ModelError(f"{_short(model)} is incomplete: {name} is missing; fetch it again.")
    found = {path.name for path in (folder / "tokenizer").iterdir()}
    if "tokenizer.json" not in found and not {"vocab.json", "merges.txt"} <= found:
        raise ModelError(
            f"{_short(model)} is incomplete: tokenizer/ has neither tokenizer.json nor vocab.json with "
            "merges.txt; fetch it again."
        )


def model_name(pipe: StableDiffusionPipeline) -> str:
    """What the pipeline was asked for: a table name, hub id or folder; "" if it was not loaded here."""
    return getattr(pipe, KPOP_FIELDS, {}).get("model", "")


def model_hash(model: str | StableDiffusionPipeline) -> str:
    """sha256 (hex) of the U-Net's and the text encoder's weights: what a key and a weight delta belong to."""
    named = isinstance(model, str)
    source = {"folder": str(model_folder(model))} if named else getattr(model, KPOP_FIELDS, {})
    if "hash" in source:
        return source["hash"]
    total = hashlib.sha256()
    for part in ("unet", "text_encoder"):
        if "folder" in source:
            for path in weight_files(Path(source["folder"]), part):
                total.update(f"{part}/{path.name} {file_hash(path)}\n".encode())
        else:
            for name, tensor in sorted(getattr(model, part).state_dict().items()):
                data = tensor.detach().cpu().float().contiguous().numpy().tobytes()
                total.update(f"{part}/{name} {hashlib.sha256(data).hexdigest()}\n".encode())
    source = {**source, "hash": total.hexdigest()}
    if not named:
        setattr(model, KPOP_FIELDS, source)
        if "folder" not in source:
            remember(model)
    return source["hash"]


def own_side(pipe: StableDiffusionPipeline) -> int:
    """Pixels a side of the pictures that the model draws when nothing else is asked for."""
    return pipe.unet.config.sample_size * pipe.vae_scale_factor


def weight_files(folder: Path, part: str) -> list[Path]:
    """The safetensors files of a part of a diffusers folder that are loaded, by name."""
    files = sorted((folder / part).glob("*.safetensors"))
    plain = [path for path in files if ".fp16." not in path.name and "non_ema" not in path.name]
    return plain or files


def public_name(model: str) -> str:
    """The model's name without anything of a path: of a folder its own name."""
    if model in MODELS or not os.path.isdir(model):
        return model
    return os.path.basename(os.path.abspath(model))


def file_hash(path: Path) -> str:
    """sha256 of a file, hex."""
    blob = path.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", blob):  # the hub's cache names large files by their sha256
        return blob
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _short(model: str) -> str:
    return repr(model if len(model) <= 80 else "..." + model[-77:])


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


def _device_failed(error: BaseException, folder: Path, device: torch.device) -> str | None:
    """What to do when the device failed, which diffusers reports as a broken file; None for other causes."""
    from .estimate import free_memory, gigabytes
    from .health import device_words, is_of_device, is_out_of_memory

    left, seen = [error], []
    while left:
        one = left.pop()
        if is_of_device(one):
            break
        seen.append(one)
        left += [cause for cause in (one.__context__, one.__cause__) if cause and cause not in seen]
    else:
        return None
    if not is_out_of_memory(one):
        return device_words(one)
    size = sum(path.stat().st_size for part in PARTS for path in weight_files(folder, part))
    try:
        free = free_memory(device)
    except RuntimeError:  # a device in need may refuse this too
        free = None
    there = "" if free is None else f" and {gigabytes(free)} are free on {device}"
    return (
        f"The device ran out of memory. Its files take {gigabytes(size)}{there}: close other programs, or "
        "choose a smaller model or another device. The files are not damaged."
    )
