"""What a run will take, before it starts: memory, trained parameters, and rows through the U-Net.

Memory of the training steps is not guessed: both steps run on a copy of the U-Net whose tensors have shapes
and no contents (torch's fake tensors), and every storage is counted while it lives, backward included.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .batches import Batch, Rows, bank_parts, bank_wants, erased_on, keys_to_keep, texts_to_keep, weighs
from .config import EraseConfig
from .continual import Forgotten
from .descent import removal_steps, start_of_prompt
from .errors import InputError
from .hidden_prompt import HiddenPrompt
from .method_table import METHODS
from .methods import load_method
from .precision import precision_context
from .prompt_attention import attention_prompt
from .student import student_of
from .trajectories import MOST_ROWS
from .weights import WeightDelta, trainable_names

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

TOKENS = 77
# What a process on a CPU grows by beside its tensors (benchmarks/memory.py): kernels that oneDNN compiles for
# each kind of pass, and the allocator's gaps, a share of the tensors. On a GPU torch counts tensors.
KERNELS, GAPS = 70 * 2**20, 0.25


@dataclass(frozen=True)
class Estimate:
    """Bytes, and rows of the batch through a U-Net forward.

    weights: theta and what lies beside it on the device. trained: theta', float32. gradients, adam: of
    theta'. prompts: p of every concept, with gradients and optimizer. activations: the peak of a step above
    all these. overhead: see KERNELS and GAPS. memory: the peak of training; sample pictures are not
    in it, they are drawn between steps. step_rows: forward rows of a step that moves p and theta', a mean
    with fresh rollouts; backward_rows: those that get a backward.
    bank_rows: once, before the first step, where no trajectory is in the cache.
    """

    device: str
    precision: str
    trainable_parameters: int
    prompt_parameters: int
    prompt_shape: tuple[int, int, int]
    weights: int
    trained: int
    gradients: int
    adam: int
    prompts: int
    activations: int
    bank: int
    overhead: int
    memory: int
    bank_rows: int
    step_rows: float
    backward_rows: int
    total_rows: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, in field order."""
        return {**asdict(self), "prompt_shape": list(self.prompt_shape)}


def estimate(cfg: EraseConfig, pipe: StableDiffusionPipeline, earlier: Sequence[Forgotten] = ()) -> Estimate:
    """What a run of cfg takes on the pipeline's device, without running it; nothing of the pipeline changes.

    cfg: resolved, precision "fp32" or "bf16" (what is computed in); "auto" counts as the U-Net's own. Of
    pipe the U-Net, tokenizer, text encoder and autoencoder are looked at. earlier: continual.earlier_of(cfg).
    Raises InputError (a method without steps), ModelError.
    """
    facts = METHODS[cfg.method]
    if not facts.stepwise:
        raise InputError(f"The method {facts.title} has no training steps, so there is no estimate.")
    unet, on_cpu = pipe.unet, pipe.unet.device.type == "cpu"
    precision = cfg.precision
    if precision == "auto":
        precision = "bf16" if unet.dtype == torch.bfloat16 else "fp32"
    sizes = dict(unet.named_parameters())
    moved = sum(sizes[name].numel() for name in trainable_names(unet, cfg.trainable))
    prompts = 0 if not facts.has_key else 1 if cfg.prompt_sharing == "shared" else len(cfg.concepts)
    with FakeTensorMode():
        p = _prompt(cfg, pipe)
        shape, told = tuple(p.key.shape), prompts * sum(tensor.numel() for tensor in p.tensors.values())
    moments = 2 if cfg.prompt_optimizer == "adam" else 0
    weights = sum(_bytes(module) for module in (unet, pipe.text_encoder, pipe.vae))
    peak = _traced_peak(cfg, pipe, precision, earlier)
    spare = 4 * moved * (cfg.rho is not None)  # a radius keeps where theta' was
    weights += moved * unet.dtype.itemsize * (cfg.base_run is not None)  # that run's theta' beside theta
    fixed = 4 * moved + 8 * moved + 4 * told * (1 + moments)
    peak = max(peak, 4 * moved + spare)  # gradients are made while activations go
    rolled, held = bank_rows(cfg, earlier), bank_bytes(cfg, unet, earlier)
    rows, backward = rows_of_steps(replace(cfg, steps=1, key_share=0), unet, earlier)
    taken = fixed + peak + held * on_cpu
    passes = 1 + facts.has_key + cfg.gradient_checkpointing  # steps of theta', of p; forwards computed again
    overhead = on_cpu * (KERNELS * passes + round(GAPS * taken))
    return Estimate(
        device=unet.device.type, precision=precision, trainable_parameters=moved, prompt_parameters=told,
        prompt_shape=shape, weights=weights, trained=4 * moved, gradients=4 * moved, adam=8 * moved,
        prompts=4 * told * (2 + moments), activations=max(0, peak - 4 * moved), bank=held,
        overhead=overhead, memory=weights + taken + overhead,
        bank_rows=rolled, step_rows=rows, backward_rows=backward,
        total_rows=rolled + round(rows_of_steps(cfg, unet, earlier)[0]),
    )  # fmt: skip


def estimate_run(
    cfg: EraseConfig, pipe: StableDiffusionPipeline, earlier: Sequence[Forgotten] = ()
) -> Estimate:
    """`estimate` for a loaded pipeline, with the precision that training would pick. Raises ModelError."""
    from .precision import pick_precision

    cfg = replace(cfg, precision=pick_precision(cfg.precision, pipe))
    return estimate(cfg, pipe, earlier)


def with_bank_of(
    cfg: EraseConfig, like: Estimate, unet: nn.Module, earlier: Sequence[Forgotten] = ()
) -> Estimate:
    """`like`, with the bytes of cfg's bank: of a run that differs in words and steps alone. Its rows stay."""
    held = bank_bytes(cfg, unet, earlier)
    more = (held - like.bank) * (like.device == "cpu")
    gaps = round(GAPS * more)
    return replace(like, bank=held, overhead=like.overhead + gaps, memory=like.memory + more + gaps)


def bank_rows(cfg: EraseConfig, earlier: Sequence[Forgotten] = ()) -> int:
    """Rows through the U-Net to fill the bank of a run when nothing is in the cache; 0 with fresh latents."""
    if cfg.latents == "fresh":
        return 0
    parts = bank_parts(cfg, texts_to_keep(cfg, earlier))
    many = next(iter(parts))[1]  # as many as of the neutral text
    return sum(parts.values()) + len(_keys(cfg, earlier)) * many * cfg.rollout_steps * 2


def bank_bytes(cfg: EraseConfig, unet: nn.Module, earlier: Sequence[Forgotten] = ()) -> int:
    """Bytes of the trajectories that a run holds from its first step to its last; 0 with fresh latents."""
    if cfg.latents == "fresh":
        return 0
    wanted, tensors = bank_wants(cfg, texts_to_keep(cfg, earlier)), 0
    for text, count, targets in wanted:
        tensors += count * (1 + len({text, "", *targets}))
    tensors += len(_keys(cfg, earlier)) * wanted[0][1] * 3  # z, and eps of the key's text and of ''
    config = unet.config
    return 4 * tensors * cfg.rollout_steps * config.in_channels * config.sample_size**2


def rows_of_steps(cfg: EraseConfig, unet: nn.Module, earlier: Sequence[Forgotten] = ()) -> tuple[float, int]:
    """Rows through the U-Net in all steps of a run, a mean with fresh rollouts, and those with a backward.

    For any mechanism: the losses of a step are asked for, and no U-Net answers. cfg: resolved. Raises
    InputError for a method without steps.
    """
    facts = METHODS[cfg.method]
    if not facts.stepwise:
        raise InputError(f"The method {facts.title} has no training steps.")
    method, asked = load_method(cfg.method), []
    batch, steps = _batch(cfg, unet, earlier), cfg.steps

    def student(some: Rows, prompt, sees) -> Tensor:
        asked.append((steps * len(some.z), torch.is_grad_enabled()))
        return torch.zeros_like(some.z)

    if facts.has_key:
        method.transfer(student, batch, None, cfg)
    steps = removal_steps(cfg.steps, cfg.key_share)
    method.removal(student, batch, None, cfg)
    backward = sum(rows for rows, graded in asked if graded)
    return sum(rows for rows, _ in asked) + cfg.steps * rollout_rows(cfg, earlier), backward


def rollout_rows(cfg: EraseConfig, earlier: Sequence[Forgotten] = ()) -> float:
    """Rows a step before its losses, a mean: fresh rollouts, half a rollout long; none with a bank."""
    if cfg.latents != "fresh":
        return 0.0
    drawn = cfg.batch_size * (1 + _retains(cfg, earlier) + bool(_keys(cfg, earlier)))
    return 2 * drawn * (cfg.rollout_steps - 1) / 2 + drawn + cfg.batch_size


def _retains(cfg: EraseConfig, earlier: Sequence[Forgotten]) -> bool:
    return bool(texts_to_keep(cfg, earlier)) or (weighs(cfg) and bool(cfg.retain_neutral))


def _keys(cfg: EraseConfig, earlier: Sequence[Forgotten]) -> list[HiddenPrompt]:
    """Earlier keys of which a step has rows."""
    return [item.key for item in keys_to_keep(cfg, earlier)]


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process could still have on the device; None where nobody can tell."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "cpu":
        import psutil

        return psutil.virtual_memory().available
    return None


def gigabytes(count: float) -> str:
    """ "3.4 GB", "0.12 GB"."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e9:.2g} GB"


# The steps on tensors without contents


def _prompt(cfg: EraseConfig, pipe: StableDiffusionPipeline) -> HiddenPrompt:
    """p of one concept, its tensors those that descend."""
    start = start_of_prompt(pipe, cfg, "", torch.Generator(), "")
    return start.holding({name: nn.Parameter(tensor) for name, tensor in start.tensors.items()})


def _empty(module: nn.Module, twin: nn.Module) -> nn.Module:
    """The twin with parameters of the module's type and no gradient; for tensors without contents."""
    for part in twin.modules():  # not `.to`, which cannot move them
        for name, weight in part.named_parameters(recurse=False):
            empty = torch.empty(weight.shape, dtype=module.dtype)
            part.register_parameter(name, nn.Parameter(empty, requires_grad=False))
    return twin.eval()


def _traced_peak(
    cfg: EraseConfig, pipe: StableDiffusionPipeline, precision: str, earlier: Sequence[Forgotten]
) -> int:
    """Most bytes of a step above theta, theta' and p."""
    method, unet, encoder = load_method(cfg.method), pipe.unet, pipe.text_encoder
    with FakeTensorMode(), torch.device(unet.device):
        twin = _empty(unet, type(unet).from_config(unet.config))
        read = SimpleNamespace(unet=twin, tokenizer=pipe.tokenizer, text_encoder=encoder)
        keys = _keys(cfg, earlier)
        if "token" in (cfg.mechanism, *(key.mechanism for key in keys)):  # others are given the text's states
            read.text_encoder = _empty(encoder, type(encoder)(encoder.config))
        delta = WeightDelta.create(twin, cfg.trainable)
        batch = _batch(cfg, twin, earlier)
        p = _prompt(cfg, pipe)

        student = student_of(read, delta, cfg, precision)

        def masked(rows: Rows, prompt: HiddenPrompt | None, sees: Tensor | None) -> Tensor:
            # Which rows see p is a question of contents, of which one value alone is remembered: it stands
            # for all rows, and the mask takes the same room.
            return student(rows, prompt, None if sees is None else torch.tensor([True], device="cpu"))

        def stepped(losses, tensors):
            loss, _ = losses(masked, batch, p, cfg)
            return torch.autograd.grad(loss, tensors, allow_unused=True)

        known = [*twin.parameters(), *twin.buffers(), *delta.tensors.values(), *p.tensors.values()]
        if read.text_encoder is not encoder:
            known += [*read.text_encoder.parameters(), *read.text_encoder.buffers()]
        with Live(known) as live:
            if METHODS[cfg.method].has_key:
                stepped(method.transfer, list(p.tensors.values()))
            for one in p.tensors.values():
                one.requires_grad_(False)
            stepped(method.removal, list(delta.tensors.values()))
            if cfg.latents == "bank":
                _bank_pass(twin, precision)
    return live.peak


def _batch(cfg: EraseConfig, unet: nn.Module, earlier: Sequence[Forgotten]) -> Batch:
    """earlier: of several keys of it, the largest is in the batch."""

    def rows(count: int) -> Rows:
        z = torch.empty(count, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
        text = torch.empty(count, TOKENS, unet.config.cross_attention_dim, dtype=unet.dtype)
        times, texts = torch.zeros(count, dtype=torch.long), ("a photo",) * count
        return Rows(z, times, text, torch.empty_like(z), torch.empty(count), texts)

    size = cfg.batch_size
    kinds = len(erased_on(cfg))
    erase = size if cfg.latents == "fresh" else kinds * size
    neutral = torch.empty(erase, TOKENS, unet.config.cross_attention_dim, dtype=unet.dtype)
    kept = rows(size) if _retains(cfg, earlier) else None
    keys = sorted(_keys(cfg, earlier), key=lambda key: sum(one.numel() for one in key.tensors.values()))
    opened = None
    if keys:
        shapes = {name: torch.empty(tensor.shape) for name, tensor in keys[-1].tensors.items()}
        opened = keys[-1].holding(shapes), rows(size)
    return Batch(0, rows(size), rows(erase), kept, neutral, opened)


@torch.no_grad()
def _bank_pass(unet: nn.Module, precision: str) -> None:
    z = torch.empty(MOST_ROWS, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    text = torch.empty(MOST_ROWS, TOKENS, unet.config.cross_attention_dim, dtype=unet.dtype)
    with precision_context(unet, precision), attention_prompt(unet):
        unet(z.to(unet.dtype), 1, encoder_hidden_states=text, return_dict=False)


class Live(TorchDispatchMode):
    """Bytes of the tensors that operations inside the block made and that are still held; and their peak.

    known: tensors made before, of which views do not count.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes = {}
        for storage in [tensor.untyped_storage() for tensor in known]:
            self._hold(storage, 0)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._note(tensor)
        return out

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._sizes:
            return
        self._hold(storage, storage.nbytes())
        self.peak = max(self.peak, self.now)

    def _hold(self, storage: torch.UntypedStorage, size: int) -> None:
        if storage._cdata not in self._sizes:
            self._sizes[storage._cdata] = size
            self.now += size
            weakref.finalize(storage, self._gone, storage._cdata)  # its place may be another's later

    def _gone(self, storage: int) -> None:
        self.now -= self._sizes.pop(storage, 0)


def _bytes(module: nn.Module) -> int:
    tensors = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
