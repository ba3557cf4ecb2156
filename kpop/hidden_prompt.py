"""The hidden prompt p of a concept, its four mechanisms, and the key file that holds it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from .errors import InputError, RunError
from .prompt_attention import SITES

KEY_FORMAT = "kpop-key-1"
MECHANISMS = ("concat", "additive", "token", "amortized")
NETWORK = ("f_w1", "f_b1", "f_w2")  # of p = f(c)
NETWORK_WIDTH = 128
NUMBERS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class HiddenPrompt:
    """p of one concept: what the key file holds.

    key: what W_k reads; value: the same tensor unless `separate_kv`. Its shape by mechanism:
    concat [1, k * 77, d_c], joined to the text's states (Table 1); additive [1, 77, d_c], added to them;
    token [1, k, d_w], k learnable words that the text encoder reads after the prompt's own (the width of its
    embeddings is d_w), with no sites; amortized [1, k * 77, d_c] and `network`: p = f(c), see
    mechanisms.amortized. model_hash: base model it belongs to (models.model_hash).
    """

    concept: str
    key: Tensor
    value: Tensor
    mechanism: str = "concat"
    sites: str | None = "mid"
    model_hash: str = ""
    about: dict[str, str] = field(default_factory=dict)
    network: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by its name in the key file: p, or p_k and p_v, and those of the network."""
        own = {"p": self.key} if self.value is self.key else {"p_k": self.key, "p_v": self.value}
        return {**own, **self.network}

    def holding(self, tensors: Mapping[str, Tensor]) -> HiddenPrompt:
        """The same prompt with other tensors, named as in `tensors`."""
        key = tensors.get("p", tensors.get("p_k"))
        network = {name: tensors[name] for name in NETWORK if name in tensors}
        return replace(self, key=key, value=tensors.get("p_v", key), network=network)

    def to(self, device: torch.device, dtype: torch.dtype) -> HiddenPrompt:
        """The same prompt on another device or in another precision."""
        return self.holding({name: tensor.to(device, dtype) for name, tensor in self.tensors.items()})

    @classmethod
    def create(
        cls,
        concept: str,
        tokens: int,
        width: int,
        factor: int,
        std: float,
        generator: torch.Generator,
        mechanism: str = "concat",
        sites: str | None = "mid",
        separate_kv: bool = False,
        model_hash: str = "",
    ) -> HiddenPrompt:
        """A random start, N(0, std^2), float32 on the CPU.

        tokens: m_c (77); width: d_c, for a token the width of the text encoder's embeddings; factor: k.
        """
        count = {"token": factor, "additive": tokens}.get(mechanism, tokens * factor)
        key = torch.randn((1, count, width), generator=generator) * std
        value = torch.randn((1, count, width), generator=generator) * std if separate_kv else key
        network = {}
        if mechanism == "amortized":  # f starts as a constant: its last layer says nothing yet
            network = {
                "f_w1": torch.randn((NETWORK_WIDTH, width), generator=generator),
                "f_b1": torch.zeros(NETWORK_WIDTH),
                "f_w2": torch.zeros(factor * width, NETWORK_WIDTH),
            }
        sites = None if mechanism == "token" else sites
        return cls(concept, key, value, mechanism, sites, model_hash, network=network)

    def save(self, path: Path) -> None:
        """Write the key file (safetensors, mode 0600) atomically. Raises RunError."""
        from .tensor_files import write_tensors

        about = {
            "format": KEY_FORMAT,
            "concept": self.concept,
            "mechanism": self.mechanism,
            "sites": self.sites or "",
            "model_hash": self.model_hash,
            "about": json.dumps(self.about),
        }
        tensors = {name: tensor.detach().float().cpu() for name, tensor in self.tensors.items()}
        write_tensors(path, tensors, about, mode=0o600)

    @classmethod
    def load(cls, path: Path, data: bytes | None = None) -> HiddenPrompt:
        """Read a key file, which may come from a stranger. Raises InputError when it is no usable key.

        data: its bytes, where they are not on disk.
        """
        from .tensor_files import parse_tensors, read_tensors

        name = Path(path).name
        try:
            tensors, about = read_tensors(Path(path)) if data is None else parse_tensors(data, name)
        except RunError as error:
            raise InputError(f"{name} is not a key file: {error}") from error
        mechanism, sites = about.get("mechanism"), about.get("sites") or None
        kinds = ({"p", *NETWORK},) if mechanism == "amortized" else ({"p"}, {"p_k", "p_v"})
        if about.get("format") != KEY_FORMAT or (mechanism in MECHANISMS and set(tensors) not in kinds):
            raise InputError(f"{name} is not a key file of this program.")
        if mechanism not in MECHANISMS or (sites not in SITES and (mechanism, sites) != ("token", None)):
            raise InputError(f"{name} names a mechanism or sites that this version does not know.")
        for tensor in tensors.values():
            if tensor.numel() > 50_000_000 or tensor.dtype not in NUMBERS:
                raise InputError(f"{name} is damaged: a tensor of it is too large or holds no numbers.")
            if not bool(torch.isfinite(tensor).all()):
                raise InputError(f"{name} is damaged: it holds values that are no numbers.")
        key, value = tensors.get("p", tensors.get("p_k")), tensors.get("p_v")
        if key.ndim != 3 or key.shape[0] != 1:
            raise InputError(f"{name} holds a tensor of shape {list(key.shape)}, not [1, m, d].")
        if value is not None and value.shape != key.shape:
            raise InputError(f"{name} is damaged: its two tensors differ in shape.")
        if mechanism == "amortized" and not _fits(tensors):
            raise InputError(f"{name} is damaged: its network does not fit its prompt.")
        try:
            more = {str(k): str(v) for k, v in json.loads(about.get("about", "{}")).items()}
        except (ValueError, AttributeError):
            more = {}
        made = cls(about.get("concept", "")[:200], key, key, mechanism, sites)
        return replace(made.holding(tensors), model_hash=about.get("model_hash", ""), about=more)


def _fits(tensors: Mapping[str, Tensor]) -> bool:
    width, (w1, b1, w2) = tensors["p"].shape[-1], (tensors[name] for name in NETWORK)
    shapes = w1.ndim == 2 and w2.ndim == 2 and w1.shape[1] == width and b1.shape == w1.shape[:1]
    return shapes and w2.shape[1] == w1.shape[0] and w2.shape[0] in _multiples(tensors["p"])


def _multiples(p: Tensor) -> set[int]:
    """k * d_c for every k that divides p's tokens."""
    return {k * p.shape[-1] for k in range(1, p.shape[1] + 1) if p.shape[1] % k == 0}


def combine(prompts: list[HiddenPrompt]) -> HiddenPrompt:
    """Several keys used at once: their tokens one after another (concat and token). Raises InputError."""
    first = prompts[0]
    if len(prompts) == 1:
        return first
    kind = (first.mechanism, first.sites)
    if first.mechanism not in ("concat", "token") or any((p.mechanism, p.sites) != kind for p in prompts):
        raise InputError(
            "Only keys of one mechanism, concat or token, and of the same sites can be used together; "
            "choose one key."
        )
    if len({p.key.shape[-1] for p in prompts}) > 1:
        raise InputError("These keys belong to different models; choose keys of one run.")
    key = torch.cat([p.key for p in prompts], 1)
    shared = all(p.value is p.key for p in prompts)
    value = key if shared else torch.cat([p.value for p in prompts], 1)
    return replace(first, concept=", ".join(p.concept for p in prompts), key=key, value=value)
