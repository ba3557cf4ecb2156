"""What a run needs to go on exactly where it stood: theta', p and both optimizers, after a whole step.

checkpoint/theta-<step>.safetensors, secret/prompt-<step>.safetensors (0600), and checkpoint/state.json,
which is written last and names the step: a crash between the files leaves the older checkpoint in force.
It also holds their SHA-256, since a bit turned over on a disk would train on unseen. The checkpoint before,
named by before.json, stays until the run is done: where the newest is damaged the run goes on from there.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .disk import disk_error, write_json
from .errors import RunError
from .tensor_files import read_tensors, write_tensors

if TYPE_CHECKING:
    from .runs import Run

FORMAT = 1
Named = dict[str, Tensor]


def save_checkpoint(
    run: Run,
    step: int,
    model_hash: str,
    theta: Named,
    theta_optimizer: torch.optim.Optimizer,
    prompts: dict[str, tuple[Named, torch.optim.Optimizer]],
    last: bool = False,
) -> None:
    """theta: name -> parameter; prompts: label -> (name -> parameter, its optimizer). Raises RunError.

    Without prompts (a method that makes no key) nothing is written to secret/. last: the run is done, so
    the checkpoint before this one is of no use any more.
    """
    secret = {}
    for label, (tensors, optimizer) in prompts.items():
        packed = _packed(tensors, optimizer)
        secret |= {f"{label}/{name}": tensor for name, tensor in packed.items()}
    if prompts:
        write_tensors(_prompt_path(run, step), secret, {"format": str(FORMAT)}, mode=0o600)
    write_tensors(_theta_path(run, step), _packed(theta, theta_optimizer), {"format": str(FORMAT)})
    before = None if last else next((each for each in run.checkpoint_states() if each["step"] != step), None)
    if before is not None:
        write_json(run.checkpoint_dir / "before.json", before)
    about = {"step": step, "model_hash": model_hash, "format": FORMAT, "sha256": _digests(run, step)}
    write_json(run.checkpoint_dir / "state.json", about)
    _drop_others(run, step, before)


def load_checkpoint(
    run: Run,
    model_hash: str,
    theta: Named,
    theta_optimizer: torch.optim.Optimizer,
    prompts: dict[str, tuple[Named, torch.optim.Optimizer]],
    before: int | None = None,
) -> int:
    """Fill parameters and optimizers in place; returns the step, 0 where there is no checkpoint.

    Where the newest checkpoint is damaged, that of the one before. before: only those of earlier steps.
    Raises RunError when no whole one is left, or it belongs to another base model.
    """
    states = [each for each in run.checkpoint_states() if before is None or each["step"] < before]
    if not states:
        return 0
    whole = [state for state in states if _is_whole(run, state)]
    if not whole:
        raise RunError(
            f"The checkpoint of run {run.id} at step {states[0]['step']} is damaged. Start the run anew."
        )
    step = whole[0]["step"]
    if before is None and whole[0] is not states[0]:  # or the damaged one would be kept as the spare
        write_json(run.checkpoint_dir / "state.json", whole[0])
    if whole[0].get("model_hash") != model_hash:
        raise RunError(
            f"Run {run.id} was started on other weights of the base model. Restore them, or start anew."
        )
    try:
        _unpack(read_tensors(_theta_path(run, step))[0], theta, theta_optimizer)
        secret = read_tensors(_prompt_path(run, step))[0] if prompts else {}
        for label, (tensors, optimizer) in prompts.items():
            _unpack(
                {
                    name.removeprefix(f"{label}/"): tensor
                    for name, tensor in secret.items()
                    if name.startswith(f"{label}/")
                },
                tensors,
                optimizer,
            )
    except (KeyError, RuntimeError, RunError) as error:
        raise RunError(
            f"The checkpoint of run {run.id} at step {step} is damaged. Start the run anew."
        ) from error
    return step


def _theta_path(run: Run, step: int) -> Path:
    return run.checkpoint_dir / f"theta-{step:06d}.safetensors"


def _prompt_path(run: Run, step: int) -> Path:
    return run.secret_dir / f"prompt-{step:06d}.safetensors"


def _is_whole(run: Run, state: dict) -> bool:
    """Whether the files are as they were written. An older program noted no digests: then they are read."""
    noted = state.get("sha256")
    return noted is None or noted == _digests(run, state["step"])


def _digests(run: Run, step: int) -> dict[str, str]:
    """SHA-256 of each file that a checkpoint has. Raises RunError where one cannot be read."""
    found = {}
    for path in (_theta_path(run, step), _prompt_path(run, step)):
        try:
            with open(path, "rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise disk_error(error, path.parent) from error
    return found


def _drop_others(run: Run, step: int, before: dict | None) -> None:
    steps = [step] if before is None else [step, before["step"]]
    try:
        if before is None:
            (run.checkpoint_dir / "before.json").unlink(missing_ok=True)
        for place in (_theta_path, _prompt_path):
            kept = [place(run, each) for each in steps]
            for path in kept[0].parent.glob(f"{kept[0].name.split('-')[0]}-*.safetensors"):
                if path not in kept:
                    path.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error, run.path) from error


def _packed(tensors: Named, optimizer: torch.optim.Optimizer) -> Named:
    """Parameters as "w/<name>" and their optimizer state as "<state>/<name>". Not copied."""
    found = {f"w/{name}": tensor.detach() for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        for key, value in optimizer.state.get(tensor, {}).items():
            if value is not None:
                found[f"{key}/{name}"] = torch.as_tensor(value).detach()
    return found


@torch.no_grad()
def _unpack(found: Named, tensors: Named, optimizer: torch.optim.Optimizer) -> None:
    for name, tensor in tensors.items():
        tensor.copy_(found[f"w/{name}"])
        state = {}
        for key, value in found.items():
            kind, _, rest = key.partition("/")
            if rest == name and kind != "w":
                # A fused Adam counts its steps beside the parameter, as it keeps its moments
                state[kind] = value.to(tensor.device, value.dtype if kind == "step" else tensor.dtype)
        if state:
            optimizer.state[tensor] = state
