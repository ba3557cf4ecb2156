"""Where the hidden prompt enters the U-Net, and the one attention processor that reads it (Table 1)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from .attention_recorder import AttentionRecorder, in_parts
from .errors import InputError, ModelError

SITES = {"mid": ("mid",), "mid-up": ("mid", "up"), "down-mid-up": ("down", "mid", "up")}
SMALL = 256 * 1024  # entries of Q K^T of one head
CPU_PART, GPU_PART = 2**20, 2**23  # probabilities at once: what a cache holds; few calls
Recorder = Callable[[str, Tensor], None] | AttentionRecorder  # or what has `rows` and `add` like it


def find_attention(unet: nn.Module) -> dict[str, Attention]:
    """Every attention module of the U-Net by its diffusers name."""
    return {name: module for name, module in unet.named_modules() if isinstance(module, Attention)}


def find_cross_attention(unet: nn.Module) -> dict[str, Attention]:
    """Attention modules that read the text, found by walking the U-Net, not by their names.

    Raises ModelError when the U-Net has none.
    """
    found = {name: module for name, module in find_attention(unet).items() if module.is_cross_attention}
    if not found:
        raise ModelError("This U-Net has no cross-attention, so there is no place for a hidden prompt.")
    return found


def site_names(unet: nn.Module, sites: str) -> set[str]:
    """Names of the cross-attention modules that `sites` covers (Table 6). Raises InputError, ModelError."""
    if sites not in SITES:
        raise InputError(f"sites must be one of {', '.join(SITES)}, not {sites!r}.")
    found = {name for name in find_cross_attention(unet) if _part(name) in SITES[sites]}
    if not found:
        raise ModelError(f'This U-Net has no cross-attention at "{sites}"; choose sites "down-mid-up".')
    return found


def _part(name: str) -> str:
    return re.split(r"[._]", name, maxsplit=1)[0]  # down_blocks.0..., mid_block..., up_blocks.1...


# The processor


@dataclass
class _Injection:
    """What every processor of one `attention_prompt` block reads. sites: empty where no row sees p."""

    key: Tensor | None
    value: Tensor | None
    sites: set[str]
    mechanism: str
    rows: Tensor | None
    recorder: AttentionRecorder | None


class PromptAttention:
    """Attention over [C ; p] (concat) or C + p (additive); plain attention elsewhere and without p.

    Same sums as diffusers' AttnProcessor2_0: K = W_k [C ; p], V = W_v [C ; p], one softmax over m_c + m_p.
    """

    def __init__(self, name: str, injection: _Injection) -> None:
        self.name = name
        self.injection = injection

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        **_: object,
    ) -> Tensor:
        given, residual = self.injection, hidden_states
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        shape = hidden_states.shape
        if len(shape) == 4:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is not None and attn.norm_cross is not None:
            text = attn.norm_encoder_hidden_states(text)
        injects = encoder_hidden_states is not None and self.name in given.sites
        query = attn.to_q(hidden_states)
        if not injects:
            key, value = attn.to_k(text), attn.to_v(text)
        elif given.mechanism == "additive":
            key, value = attn.to_k(self._added(text, given.key)), attn.to_v(self._added(text, given.value))
        else:
            # W_k [C ; p] = [W_k C ; W_k p]: p is projected once, not once a row
            key, value = self._joined(attn.to_k, text, given.key), self._joined(attn.to_v, text, given.value)
        query, key, value = (_split(x, attn.heads) for x in (query, key, value))
        if attn.norm_q is not None:
            query = attn.norm_q(query)
        if attn.norm_k is not None:
            key = attn.norm_k(key)
        mask = self._mask(attn, attention_mask, text, query, key, injects)
        recorder = given.recorder if encoder_hidden_states is not None else None
        if recorder is None:
            out = _attend(query, key, value, attn.scale, mask)
        else:
            record = partial(recorder.add, self.name)
            out = _recorded(query, key, value, attn.scale, mask, record, recorder.rows)
        out = out.transpose(1, 2).flatten(2).to(query.dtype)
        out = attn.to_out[1](attn.to_out[0](out))
        if len(shape) == 4:
            out = out.transpose(1, 2).reshape(shape)
        if attn.residual_connection:
            out = out + residual
        return out if attn.rescale_output_factor == 1 else out / attn.rescale_output_factor

    def _added(self, text: Tensor, prompt: Tensor) -> Tensor:
        if prompt.shape[1] != text.shape[1]:
            raise InputError(
                f"An additive key of {prompt.shape[1]} tokens does not fit a text of {text.shape[1]}."
            )
        rows = self.injection.rows
        added = text + prompt.to(text.dtype)
        return added if rows is None else torch.where(rows[:, None, None], added, text)

    def _joined(self, project: nn.Module, text: Tensor, prompt: Tensor) -> Tensor:
        more = project(prompt.to(text.dtype))
        return torch.cat([project(text), more.expand(text.shape[0], -1, -1)], dim=1)

    def _mask(
        self, attn: Attention, given: Tensor | None, text: Tensor, query: Tensor, key: Tensor, injects: bool
    ) -> Tensor | None:
        """Additive mask [B, 1 or heads, 1 or Q, m_c + m_p]: the model's own, -inf on p in rows without p."""
        batch, tokens, extra = text.shape[0], text.shape[1], key.shape[2] - text.shape[1]
        mask = None
        if given is not None:
            mask = attn.prepare_attention_mask(given, tokens, batch).view(batch, attn.heads, -1, tokens)
        rows = self.injection.rows
        if not injects or extra == 0:
            return mask
        if rows is None and mask is None:
            return None
        hidden = torch.zeros(batch, 1, 1, extra, dtype=query.dtype, device=query.device)
        if rows is not None:
            hidden = hidden.masked_fill(~rows[:, None, None, None], float("-inf"))
        if mask is None:
            return F.pad(hidden, (tokens, 0))
        return torch.cat([mask, hidden.expand(-1, mask.shape[1], mask.shape[2], -1)], dim=-1)


def _split(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)  # [B, heads, tokens, width]


def _attend(query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    """softmax(Q K^T * scale + mask) V, [B, heads, Q, width].

    On the CPU two batched products beat the fused kernel where Q K^T is small and a backward follows.
    """
    small = query.shape[2] * key.shape[2] <= SMALL and torch.is_grad_enabled() and query.device.type == "cpu"
    if not small:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    scores = (query * scale) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores + mask
    return scores.softmax(-1) @ value


def _recorded(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    mask: Tensor | None,
    record: Callable[[Tensor, int, int], None],
    rows: int | None,
) -> Tensor:
    """As _attend, and record(probs, start, Q) gets the softmax, float32, of the last `rows` rows.

    In parts [rows, heads, part, m] of some of the Q positions, CPU_PART or GPU_PART entries at most, so that
    memory does not grow with the tokens of p; whole, of every row, where rows is None.
    """
    batch, positions = len(query), query.shape[2]
    rest = 0 if rows is None else max(0, batch - rows)
    out = value.new_empty(*query.shape[:3], value.shape[-1])
    if rest:
        some = None if mask is None else mask[:rest]
        out[:rest] = _attend(query[:rest], key[:rest], value[:rest], scale, some)
    key, value = key[rest:].transpose(-1, -2), value[rest:]
    most = CPU_PART if query.device.type == "cpu" else GPU_PART
    length = positions if rows is None else max(1, most // key[..., 0, :].numel())
    for start in range(0, positions, length):
        part = slice(start, start + length)
        scores = (query[rest:, :, part] * scale) @ key
        if mask is not None:
            scores += mask[rest:, :, part] if mask.shape[2] > 1 else mask[rest:]
        probs = scores.softmax(-1, dtype=torch.float32)  # in bf16 a row of 847 would not sum to one
        record(probs, start, positions)
        out[rest:, :, part] = probs.to(value.dtype) @ value
    return out


def _moved(rows: Tensor, device: torch.device) -> Tensor:
    """rows on the device. Written there, not copied: a CUDA graph can hold no copy from the CPU."""
    if rows.device == device or device.type != "cuda" or type(rows) is not Tensor:
        return rows.to(device)
    there = torch.zeros(len(rows), dtype=torch.bool, device=device)
    for row, sees in enumerate(rows.tolist()):
        if sees:
            there[row].fill_(True)
    return there


@contextmanager
def attention_prompt(
    unet: nn.Module,
    prompt: Tensor | tuple[Tensor, Tensor] | None = None,
    sites: str = "down-mid-up",
    mechanism: str = "concat",
    rows: Tensor | None = None,
    recorder: Recorder | None = None,
) -> Iterator[None]:
    """Inside the block the U-Net's attention reads p; afterwards its own processors are back.

    prompt: p [1, m_p, d_c] or one a row [B, m_p, d_c], or a pair (p_k, p_v); None for no p.
    rows: bool [B], rows of the batch that see p, best on the CPU; the others come out as without. None: all.
    recorder(name, probs): called at every cross-attention with its softmax [B, heads, Q, m_c (+ m_p)], text
    columns first; rows without p have zeros in p's columns. An AttentionRecorder gets its rows alone, in
    parts. Raises InputError (sites), ModelError (no place).
    """
    if mechanism not in ("concat", "additive"):
        raise InputError(f"mechanism must be concat or additive, not {mechanism!r}.")
    pair = prompt if isinstance(prompt, tuple) else (prompt, prompt)
    places = site_names(unet, sites) if prompt is not None else set()
    modules = find_attention(unet)
    width = unet.config.cross_attention_dim
    if prompt is not None and isinstance(width, int) and pair[0].shape[-1] != width:
        raise InputError(
            f"The key is {pair[0].shape[-1]} wide and this model reads {width}: it belongs to another."
        )
    if rows is not None and places:  # asked and moved once, not in every layer: a GPU would wait each time
        places = places if bool(rows.any()) else set()
        rows = _moved(rows, pair[0].device)
    recorder = None if recorder is None else in_parts(recorder)
    injection = _Injection(pair[0], pair[1], places, mechanism, rows, recorder)
    before = {name: module.processor for name, module in modules.items()}
    try:
        for name, module in modules.items():
            module.processor = PromptAttention(name, injection)
        yield
    finally:
        for name, module in modules.items():
            module.processor = before[name]
