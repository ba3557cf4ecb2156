"""The sanitized model of a run as others use it: a diffusers folder, the trained tensors, a single file.

A release holds theta' and never p: before it is put in its place every file is searched for the key.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from . import models
from .disk import disk_error, replacing, write_json, write_text
from .errors import InputError, ModelError, RunError
from .estimate import gigabytes
from .key_scan import check_release
from .release_card import BASE_CARD, Subject, card
from .release_evaluation import measured
from .run_status import ACTIVE
from .runs import slug
from .tensor_files import read_tensors, write_tensors
from .weights import WeightDelta

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from torch import Tensor

    from .runs import Run

FORMS = ("diffusers", "delta", "single-file")
FORMAT = "kpop-release-1"
MANIFEST = "release.json"
SHORT_SEED = 2**40  # a training for each one below cannot be had
DELTA = "delta.safetensors"
COPIED = ("text_encoder", "vae")  # parts that no method here trains


@dataclass(frozen=True)
class Release:
    """A folder that was made. forms: those in it; files: all of them, below `path`."""

    path: Path
    forms: tuple[str, ...]
    files: tuple[Path, ...]


def check_run(run: Run) -> None:
    """Raise RunError unless the run has a sanitized model to release."""
    if not run.method.has_weights:
        raise RunError(
            f"Run {run.id} was made by {run.method.title}, which trains no weights: its model is the base "
            "model, so there is nothing to release. Train one by another method."
        )
    if not run.is_example and run.status.state in ACTIVE:
        raise RunError(f"Run {run.id} is {run.status.state}. Wait until it ends, or stop and keep it.")
    if not run.weights_path.is_file():
        raise RunError(f"Run {run.id} has no weights yet. Train it, or stop and keep it.")


def seed_warning(run: Run) -> str:
    """A sentence for the owner of a key that can be made again by trying seeds; "" where it cannot."""
    if run.is_example or not run.method.has_key or run.config.seed >= SHORT_SEED:
        return ""
    return (
        "The seed of this run was chosen, and is short: whoever tries such seeds with the settings on the "
        "card, a training each, makes its key. For a key that stays secret, train again without a seed."
    )


def release(
    run: Run,
    out: str | Path,
    forms: Sequence[str] = ("diffusers",),
    evaluation: str | Path | None = None,
    on_part: Callable[[str], None] | None = None,
    runs_dir: str | Path | None = None,
    copies: int = 1,
) -> Release:
    """Write the sanitized model of `run` to the folder `out`, whole or not at all.

    forms: of FORMS; "all": those that the model can take. evaluation: folder of `evaluate`, for the table in
    the card; None: the newest finished one of the run (runs_dir: where those of the example are), if it is of
    these weights. on_part(words) tells what is being made. `out` may hold an earlier release, which is
    replaced, but nothing else. copies: how many of the release its disk must have room for. The keys of a
    sealed run must be unlocked (key_sealing.unlocked): without them nothing can be searched for. Raises
    InputError, ModelError, RunError.
    """
    tell = on_part or (lambda words: None)
    everything = "all" in ([forms] if isinstance(forms, str) else forms)
    wanted = [*FORMS] if everything else list(dict.fromkeys([forms] if isinstance(forms, str) else forms))
    unknown = [form for form in wanted if form not in FORMS]
    if unknown or not wanted:
        raise InputError(f"A release is one of {', '.join(FORMS)} or all, not {str((unknown or [''])[0])!r}.")
    check_run(run)
    out = _checked(Path(out).expanduser().absolute())
    tell("loading the base model")
    pipe = models.load_pipeline(run.config.model, device="cpu", dtype="fp32")
    delta = WeightDelta.load(run.weights_path)
    if delta.model_hash and delta.model_hash != models.model_hash(pipe):
        raise ModelError(f"Run {run.id} was trained on other weights of {run.config.model}. Restore them.")
    if "single-file" in wanted:
        try:
            from .single_file import check_layout

            check_layout(pipe)
        except ModelError:
            if not everything:
                raise
            wanted.remove("single-file")
    _check_room(out, copies * _bytes(pipe, delta, wanted))
    subject = Subject.of(run, models.model_hash(pipe), measured(run, evaluation, runs_dir))
    with replacing(out) as made:
        made.mkdir()
        names = _write_forms(made, wanted, pipe, delta, run, tell)
        write_text(made / "README.md", card(subject, tuple(wanted), names))
        write_json(made / MANIFEST, _manifest(made, run, wanted, subject))
        tell("searching for the key")
        check_release(made, run, shifted=False)
    return Release(out, tuple(wanted), tuple(sorted(path for path in out.rglob("*") if path.is_file())))


def _bytes(pipe: StableDiffusionPipeline, delta: WeightDelta, wanted: Sequence[str]) -> int:
    """About what the forms take, float32."""
    parts = (pipe.unet, pipe.vae, pipe.text_encoder)
    whole = 4 * sum(weight.numel() for part in parts for weight in part.parameters())
    small = 4 * sum(tensor.numel() for tensor in delta.tensors.values())
    return sum(small if form == "delta" else whole for form in wanted)


def _check_room(out: Path, needed: int) -> None:
    """Raise RunError where the disk of `out` has less than that free."""
    place = next(path for path in (out, *out.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise RunError(
            f"The release needs about {gigabytes(needed)} on the disk, and {gigabytes(free)} are free. Free "
            "some space, or choose the small delta."
        )


def _write_forms(
    made: Path,
    wanted: Sequence[str],
    pipe: StableDiffusionPipeline,
    delta: WeightDelta,
    run: Run,
    tell: Callable[[str], None],
) -> dict[str, str]:
    """Write the weights; returns form -> name of its file, for the card."""
    names = {"delta": DELTA, "single-file": f"{_file_name(run)}.safetensors"}
    with delta.applied(pipe.unet) if wanted != ["delta"] else nullcontext():
        if "diffusers" in wanted:
            tell("writing the diffusers folder")
            _write_folder(made, pipe, run)
        if "single-file" in wanted:
            from .single_file import single_file_tensors

            tell("writing the single file")
            about = {"modelspec.architecture": "stable-diffusion-v1", "modelspec.title": _file_name(run)}
            _save(made / names["single-file"], single_file_tensors(pipe), about)
    if "delta" in wanted:
        tell("writing the delta")
        about = {"model": models.public_name(run.config.model), "model_hash": delta.model_hash}
        _save(made / DELTA, delta.tensors, about)
    base_card = models.model_folder(run.config.model) / "README.md"
    if base_card.is_file():
        shutil.copyfile(base_card, made / BASE_CARD)
    return names


def _write_folder(made: Path, pipe: StableDiffusionPipeline, run: Run) -> None:
    """theta' as a StableDiffusionPipeline's folder; all but the U-Net and the scheduler is the base's."""
    from .drawing import make_scheduler

    base = models.model_folder(run.config.model)
    index = _config(base / "model_index.json")
    for part in ("safety_checker", "feature_extractor", "image_encoder"):  # none in our pictures either
        index[part] = [None, None]
    kind = models.generation_defaults(run.config.model)["scheduler"]
    scheduler = make_scheduler(pipe, kind, pipe.scheduler.config.num_train_timesteps)
    index |= {"requires_safety_checker": False, "scheduler": ["diffusers", type(scheduler).__name__]}
    write_json(made / "model_index.json", index)
    scheduler.save_pretrained(made / "scheduler")
    for part in COPIED:
        (made / part).mkdir()
        write_json(made / part / "config.json", _config(base / part / "config.json"))
        for path in models.weight_files(base, part):
            _copy_weights(path, made / part / path.name)
        for path in (base / part).glob("*.safetensors.index.json"):
            if ".fp16." not in path.name:
                shutil.copyfile(path, made / part / path.name)
    (made / "tokenizer").mkdir()
    for path in (base / "tokenizer").iterdir():
        if path.suffix in (".json", ".txt"):
            shutil.copyfile(path, made / "tokenizer" / path.name)
    if (base / "words.json").is_file():
        shutil.copyfile(base / "words.json", made / "words.json")
    (made / "unet").mkdir()
    write_json(made / "unet" / "config.json", _config(base / "unet" / "config.json"))
    _save(made / "unet" / "diffusion_pytorch_model.safetensors", pipe.unet.state_dict())


def _copy_weights(path: Path, to: Path) -> None:
    """In float32 as the U-Net: diffusers loads each part as it lies, and two precisions do not fit."""
    tensors, about = read_tensors(path)
    if all(tensor.dtype == torch.float32 or not tensor.is_floating_point() for tensor in tensors.values()):
        shutil.copyfile(path, to)
    else:
        _save(to, {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}, about)


def _save(path: Path, tensors: dict[str, Tensor], about: dict[str, str] | None = None) -> None:
    """One safetensors file as others write and read them. Raises RunError."""
    write_tensors(path, tensors, {"format": "pt", **(about or {})})


def _config(path: Path) -> dict:
    """A config of the base without the places it was loaded from, for weights in float32."""
    found = {name: value for name, value in models.read_json(path).items() if name != "_name_or_path"}
    return {name: "float32" if name in ("dtype", "torch_dtype") else v for name, v in found.items()}


def _file_name(run: Run) -> str:
    """Such as stable-diffusion-v1-4-without-church."""
    base = slug(models.public_name(run.config.model).rpartition("/")[2])
    more = f"-and-{len(run.config.concepts) - 1}-more" if len(run.config.concepts) > 1 else ""
    return f"{base}-without-{slug(run.config.concepts[0])}{more}"


def _manifest(made: Path, run: Run, forms: Sequence[str], subject: Subject) -> dict:
    files = {}
    for path in sorted(path for path in made.rglob("*") if path.is_file()):
        told = {"bytes": path.stat().st_size, "sha256": models.file_hash(path)}
        files[path.relative_to(made).as_posix()] = told
    return {
        "format": FORMAT,
        "run": run.id,
        "method": run.config.method,
        "forms": list(forms),
        "model": subject.model,
        "model_hash": subject.model_hash,
        "files": files,
    }


def _checked(out: Path) -> Path:
    """Raises InputError where `out` holds something that is no release."""
    try:
        taken = out.exists() and any(out.iterdir())
    except OSError as error:
        raise disk_error(error, out) from error
    try:
        if not taken or json.loads((out / MANIFEST).read_text("utf-8")).get("format") == FORMAT:
            return out
    except (OSError, ValueError, AttributeError):
        pass  # no manifest of ours
    raise InputError(f"{out} holds something else than a release. Choose a new or empty folder.")


def pack(made: Release, path: Path) -> Path:
    """The release as one zip file, uncompressed: weights do not get smaller. Raises RunError."""
    import zipfile

    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for file in made.files:
                archive.write(file, Path(path.stem) / file.relative_to(made.path))
    except OSError as error:
        raise disk_error(error, path.parent) from error
    return path


def push(made: Release, run: Run, repo: str, really: bool = False) -> list[tuple[str, int]]:
    """(name, bytes) of what goes to a Hugging Face repository; only with `really` is anything sent.

    The folder is searched for the key once more. A repository that is made for it is private. Raises
    InputError (name), RunError (what the hub answered).
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise InputError(f"{repo[:100]!r} cannot name a repository; write USER/NAME.") from error
    check_release(made.path, run)
    files = [(file.relative_to(made.path).as_posix(), file.stat().st_size) for file in made.files]
    if really:
        try:
            api = HfApi()
            api.create_repo(repo, private=True, exist_ok=True)
            api.upload_folder(
                repo_id=repo, folder_path=made.path, commit_message=f"Sanitized model of run {run.id}"
            )
        except Exception as error:  # the hub client raises many kinds, among them its HTTP library's own
            told = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise RunError(
                f"The hub did not take it ({told[:200]}). Log in with `hf auth login`, check the name, try "
                f"again; the release is in {made.path}."
            ) from error
    return files
