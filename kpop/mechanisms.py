"""What the U-Net reads of a hidden prompt: the two mechanisms of the paper, and two it leaves open."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention_recorder import in_parts
from .errors import InputError
from .hidden_prompt import HiddenPrompt
from .prompt_attention import Recorder, attention_prompt

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


def read_once(
    pipe: StableDiffusionPipeline, p: HiddenPrompt | None, texts: Sequence[str], states: Tensor, sees=None
) -> tuple[HiddenPrompt | None, Tensor]:
    """A prompt that is only joined or added, and the states to give, which read as p does with `reading`.

    For a U-Net that runs twice (gradient checkpointing): what p is made of must be computed once.
    """
    if p is None or p.mechanism in ("concat", "additive"):
        return p, states
    if p.mechanism == "amortized":
        given = amortized(p, states)
        return replace(p, mechanism="concat", key=given, value=given, network={}), states
    with reading(pipe, p, texts, states, sees) as told:
        return None, told


@contextmanager
def reading(
    pipe: StableDiffusionPipeline,
    p: HiddenPrompt | None,
    texts: Sequence[str],
    states: Tensor,
    sees: Tensor | None = None,
    recorder: Recorder | None = None,
) -> Iterator[Tensor]:
    """Inside the block the U-Net's attention reads p; yields the encoder_hidden_states to give it.

    texts: one a row, B of them, and states: theirs, C [B, 77, d_c]. sees: bool [B], rows that see p; the
    others come out as without it; None: all. recorder: see `attention_prompt`; p's columns come last for
    every mechanism. Raises InputError when p belongs to another model.
    """
    if p is None:
        with attention_prompt(pipe.unet, recorder=recorder):
            yield states
    elif p.mechanism == "token":
        seen, places = told_after(pipe, texts, p.key)
        rows = torch.ones(len(states), dtype=torch.bool) if sees is None else sees
        if recorder is not None:
            recorder = _Last(recorder, places, p.key.shape[1], rows, states.shape[1])
        with attention_prompt(pipe.unet, recorder=recorder):
            yield torch.where(rows.to(states.device)[:, None, None], seen.to(states.dtype), states)
    else:
        given = amortized(p, states) if p.mechanism == "amortized" else _pair(p)
        kind = "additive" if p.mechanism == "additive" else "concat"
        with attention_prompt(pipe.unet, given, p.sites, kind, sees, recorder):
            yield states


def _pair(p: HiddenPrompt) -> Tensor | tuple[Tensor, Tensor]:
    return p.key if p.value is p.key else (p.key, p.value)


def amortized(p: HiddenPrompt, states: Tensor) -> Tensor:
    """p = f(c), [B, k * 77, d_c], of the text's states c [B, 77, d_c]: one key for many phrasings.

    Per text token f(c) = p + W_2 gelu(W_1 norm(c) + b_1), with k blocks of W_2. Weights are kept at unit
    scale and divided by the root of their fan-in here, so that one learning rate suits them and p.
    """
    _check_width(p.key, states.shape[-1])
    w1, b1, w2 = (p.network[name].to(states.dtype) for name in ("f_w1", "f_b1", "f_w2"))
    if p.key.shape[1] * p.key.shape[2] != states.shape[1] * w2.shape[0]:
        raise InputError(f"This key is not made for texts of {states.shape[1]} tokens, as this model reads.")
    c = F.layer_norm(states, states.shape[-1:])
    hidden = F.gelu(F.linear(c, w1 / w1.shape[1] ** 0.5, b1))
    blocks = F.linear(hidden, w2 / w2.shape[1] ** 0.5).unflatten(-1, (-1, states.shape[-1]))
    return p.key.to(states.dtype) + blocks.transpose(1, 2).flatten(1, 2)  # [B, 77, k, d] to [B, k * 77, d]


def told_after(pipe: StableDiffusionPipeline, texts: Sequence[str], words: Tensor) -> tuple[Tensor, Tensor]:
    """States [B, 77, d_c] of texts with learnable words [1, m, d_w] behind their last one, and the place [B]
    of the first of these. A text too long for both is cut. Textual Inversion's way (Gal et al. 2022).
    """
    encoder, tokenizer = pipe.text_encoder, pipe.tokenizer
    table, count, length = encoder.get_input_embeddings(), words.shape[1], tokenizer.model_max_length
    if count > length // 2:
        raise InputError(f"These keys are {count} words long and leave no room for a text; name one concept.")
    _check_width(words, table.weight.shape[-1])
    padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    told = tokenizer(list(texts), truncation=True, max_length=length - count)["input_ids"]
    ends = torch.tensor([len(ids) - 1 for ids in told])
    rows = [[*ids[:-1], *ids[-1:] * (count + 1), *[padding] * (length - count - len(ids))] for ids in told]
    ids, at = torch.tensor(rows, device=encoder.device), torch.arange(length)
    here = ((at >= ends[:, None]) & (at < ends[:, None] + count)).to(encoder.device)
    mask = None
    if getattr(encoder.config, "use_attention_mask", False):
        mask = (at <= ends[:, None] + count).long().to(encoder.device)

    def put(_: torch.nn.Module, __: tuple, out: Tensor) -> Tensor:
        return out.masked_scatter(here[..., None], words.to(out.dtype).expand(len(out), -1, -1))

    handle = table.register_forward_hook(put)
    try:
        return encoder(ids, attention_mask=mask)[0], ends
    finally:
        handle.remove()


def contributed(pipe: StableDiffusionPipeline, p: HiddenPrompt, text: str, states: Tensor) -> Tensor:
    """What p brings to a text of states [77, d_c], as states [m, d_c]: of a token, its own words'."""
    if p.mechanism == "token":
        seen, ends = told_after(pipe, [text], p.key)
        return seen[0, ends[0] : ends[0] + p.key.shape[1]]
    return amortized(p, states[None])[0] if p.mechanism == "amortized" else p.value[0]


class _Last:
    """A recorder for which columns of a token's words come behind the text's, as p's of other mechanisms."""

    def __init__(self, recorder: Recorder, ends: Tensor, count: int, sees: Tensor, length: int):
        self.inner = in_parts(recorder)
        self.rows = self.inner.rows
        nothing = [length] * count
        self.order = torch.tensor(
            [
                [*range(end), *range(end + count, length), *nothing, *range(end, end + count)]
                if told
                else [*range(length), *nothing]
                for end, told in zip(ends.tolist(), sees.tolist(), strict=True)
            ]
        )

    def add(self, name: str, probs: Tensor, start: int, positions: int) -> None:
        index = self.order[-len(probs) :].to(probs.device)[:, None, None].expand(*probs.shape[:-1], -1)
        self.inner.add(name, F.pad(probs, (0, 1)).gather(-1, index), start, positions)


def _check_width(p: Tensor, width: int) -> None:
    if p.shape[-1] != width:
        raise InputError(
            f"The key is {p.shape[-1]} wide and this model reads {width}: it belongs to another."
        )
