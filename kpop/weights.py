"""theta': the trained subset of the U-Net's weights, kept beside theta and swapped in by pointer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from .errors import InputError, ModelError, RunError
from .prompt_attention import find_attention, find_cross_attention
from .tensor_files import read_tensors, write_tensors

FORMAT = "kpop-weights-1"
SUBSETS = ("xattn", "kv", "selfattn", "noxattn", "full")


def trainable_names(unet: nn.Module, subset: str) -> list[str]:
    """Diffusers names of the parameters a subset trains, in the U-Net's order (ESD's train_method).

    xattn: all of cross-attention. kv: its W_k and W_v. selfattn: all of self-attention. noxattn: all but
    cross-attention, the time embedding and the output block. full: all. Raises InputError, ModelError.
    """
    cross = [name + "." for name in find_cross_attention(unet)]
    own = [name + "." for name in find_attention(unet) if name + "." not in cross]

    def chosen(name: str) -> bool:
        in_cross = name.startswith(tuple(cross))
        if subset == "xattn":
            return in_cross
        if subset == "kv":
            return in_cross and (".to_k." in name or ".to_v." in name)
        if subset == "selfattn":
            return name.startswith(tuple(own)) if own else False
        if subset == "noxattn":
            return not in_cross and not name.startswith(("time_embedding.", "conv_norm_out.", "conv_out."))
        return True

    if subset not in SUBSETS:
        raise InputError(f"trainable must be one of {', '.join(SUBSETS)}, not {subset!r}.")
    found = [name for name, _ in unet.named_parameters() if chosen(name)]
    if not found:
        raise ModelError(
            f"This U-Net has no weights of the kind {subset!r}; choose another trainable subset."
        )
    return found


@dataclass(frozen=True)
class WeightDelta:
    """Trained copies of some of the U-Net's parameters; tensors: diffusers name -> tensor.

    model_hash: of the base model (models.model_hash). about: plain strings for the file's header.
    """

    tensors: dict[str, Tensor]
    model_hash: str = ""
    about: dict[str, str] = field(default_factory=dict)

    @classmethod
    def create(cls, unet: nn.Module, subset: str, model_hash: str = "") -> WeightDelta:
        """Copies of the subset as they are now: float32 parameters on the U-Net's device, ready to train."""
        weights = dict(unet.named_parameters())
        copies = {
            name: nn.Parameter(weights[name].detach().float().clone())
            for name in trainable_names(unet, subset)
        }
        return cls(copies, model_hash, {"trainable": subset})

    def to(self, device: torch.device, dtype: torch.dtype) -> WeightDelta:
        """Frozen copies on another device or in another precision."""
        return replace(self, tensors={n: t.detach().to(device, dtype) for n, t in self.tensors.items()})

    @contextmanager
    def applied(self, unet: nn.Module) -> Iterator[None]:
        """Inside the block the U-Net computes with these tensors, and theta is put back afterwards.

        Nothing is copied but tensors of another precision than theta's: those come in theta's, and gradients
        pass through to them. Raises InputError when they do not fit the U-Net.
        """
        swapped: list[tuple[nn.Module, str, nn.Parameter]] = []
        try:
            for name, tensor in self.tensors.items():
                path, _, leaf = name.rpartition(".")
                try:
                    module = unet.get_submodule(path)
                    before = module._parameters[leaf]
                except (AttributeError, KeyError):
                    before = None
                if before is None or before.shape != tensor.shape:
                    raise InputError(
                        f"These weights belong to another model: {name[:80]} does not fit this one."
                    )
                swapped.append((module, leaf, before))
                tensor = tensor.to(before.dtype)
                passes = isinstance(tensor, nn.Parameter) or tensor.requires_grad
                module._parameters[leaf] = tensor if passes else nn.Parameter(tensor, requires_grad=False)
            yield
        finally:
            for module, leaf, before in reversed(swapped):
                module._parameters[leaf] = before

    def over(self, base: WeightDelta | None) -> WeightDelta:
        """This delta with, beneath it, the tensors of another that it does not hold itself."""
        return self if base is None else replace(self, tensors={**base.tensors, **self.tensors})

    def save(self, path: Path) -> None:
        """Write a safetensors file with diffusers names, float32, atomically. Raises RunError."""
        about = {**self.about, "format": FORMAT, "model_hash": self.model_hash}
        write_tensors(path, {name: tensor.float() for name, tensor in self.tensors.items()}, about)

    @classmethod
    def load(cls, path: Path) -> WeightDelta:
        """Read what `save` wrote. Raises RunError when it is missing, damaged or of another kind."""
        tensors, about = read_tensors(path)
        if about.get("format") != FORMAT or not tensors:
            raise RunError(f"{path.name} holds no weights of this program. Train the run again.")
        return cls(
            tensors, about.get("model_hash", ""), {k: v for k, v in about.items() if k != "model_hash"}
        )


def distance(delta: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Tensor:
    """L2 distance between two sets of tensors of the same names, float32 scalar."""
    return torch.stack([(delta[name] - other[name]).float().square().sum() for name in delta]).sum().sqrt()
