"""UCE: cross-attention keys and values edited in closed form (Gandikota et al. 2024). It leaves no key.

For W of every cross-attention W_k and W_v, W0 before:

    minimise s_e sum |W c - v*|^2 + s_p sum |W c_r - v_r|^2 + lamb |W - W0|^2,  v* = W0 c_n, v_r = W0 c_r
    W = (lamb W0 + s_e sum v* c^T + s_p sum v_r c_r^T) (lamb I + s_e sum c c^T + s_p sum c_r c_r^T)^-1

c are the text encoder's states from the last token of the concept to the end of the text, in every
template, as in the code that the paper's tables were made with: what comes behind a word has read it too.
c_n is the state of the template's anchor, or the neutral text, as far behind its own last token, for '' its
start token. s_p is `retain_weight`; `retain_neutral` keeps c_n too, which UCE does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import models
from ..config import Concept, EraseConfig, names
from ..run_texts import anchors, kept_templates, phrase
from ..weights import WeightDelta

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

LAMB = 0.5
ERASE_SCALE = 1.0


def solve(
    pipe: StableDiffusionPipeline, cfg: EraseConfig, model_hash: str
) -> tuple[WeightDelta, dict[str, float]]:
    """theta', solved in float64 on the CPU, and mean squared residuals over all W.

    l_erase: of W c - v*; l_erase_before: of W0 c - v*; l_retain: of W c_r - v_r, where something is retained.
    """
    erased, neutral = aligned(pipe, cfg.concepts, cfg.templates, anchors(cfg))
    kept = torch.cat([erased[:0], *_kept(pipe, cfg)])
    if cfg.retain_neutral:
        kept = torch.cat([kept, neutral.unique(dim=0)])
    if cfg.retain_weight == 0:
        kept = kept[:0]
    delta = WeightDelta.create(pipe.unet, "kv", model_hash)
    found, told = {}, []
    for name, weight in delta.tensors.items():
        before = weight.detach().cpu().double()
        if not name.endswith(".weight"):
            found[name] = before.float().to(weight.device)  # a bias is the same on both sides of v*
            continue
        after = edited(before, erased, neutral, kept, cfg.retain_weight)
        found[name] = after.float().to(weight.device)
        goal = neutral @ before.T
        told.append(
            [
                (erased @ after.T - goal).square().mean(),
                (erased @ before.T - goal).square().mean(),
                (kept @ (after - before).T).square().mean(),
            ]
        )
    values = torch.tensor(told).mean(0).tolist()
    losses = dict(zip(("l_erase", "l_erase_before", "l_retain"), values, strict=True))
    if not len(kept):
        del losses["l_retain"]
    return WeightDelta(found, model_hash, delta.about), losses


def _kept(pipe: StableDiffusionPipeline, cfg: EraseConfig) -> list[Tensor]:
    """States of what is retained, [n, d_c] for all words that have the same phrasings."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for word in (word for concept in cfg.retain or () for word in names(concept)):
        alike.setdefault(kept_templates(cfg, word), []).append(word)
    return [aligned(pipe, tuple(words), templates)[0] for templates, words in alike.items()]


def edited(before: Tensor, erased: Tensor, neutral: Tensor, kept: Tensor, retain_weight: float) -> Tensor:
    """W [out, d] from W0 [out, d] and float64 states [n, d]: erased c with their c_n, and kept c_r."""
    left = LAMB * torch.eye(before.shape[1], dtype=before.dtype)
    left = left + ERASE_SCALE * erased.T @ erased + retain_weight * kept.T @ kept
    right = LAMB * before
    right = right + ERASE_SCALE * (neutral @ before.T).T @ erased
    right = right + retain_weight * (kept @ before.T).T @ kept
    return torch.linalg.solve(left, right.T).T  # W left = right, and left is symmetric


def aligned(
    pipe: StableDiffusionPipeline,
    concepts: tuple[Concept, ...],
    templates: tuple[str, ...],
    neutral: tuple[str, ...] = (),
) -> tuple[Tensor, Tensor]:
    """States of every word of the concepts in every template, from the word's last token to the text's end,
    and those as far into a template's neutral text, "" where none is given, behind its last token; float64
    [n, d_c] both.
    """
    words = [word for concept in concepts for word in names(concept)]
    found, others = [], []
    aims = [states_from(pipe, text) for text in neutral or [""] * len(templates)]
    for word in words:
        for template, aim in zip(templates, aims, strict=True):
            text = phrase(template, word)
            tail = template[template.index("{}") + 2 :]
            states = states_from(pipe, text, len(text) - len(tail))
            both = min(len(states), len(aim))
            found.append(states[:both])
            others.append(aim[:both])
    nothing = torch.zeros(0, pipe.unet.config.cross_attention_dim, dtype=torch.float64)
    return torch.cat([nothing, *found]), torch.cat([nothing, *others])


def states_from(pipe: StableDiffusionPipeline, text: str, end: int | None = None) -> Tensor:
    """States [m, d_c] from the last token before character `end` (None: of the whole text) on; float64, CPU.

    A text without tokens has only its start token, and those behind it.
    """
    tokenizer = pipe.tokenizer
    spans = tokenizer(
        text, return_offsets_mapping=True, truncation=True, max_length=tokenizer.model_max_length
    )["offset_mapping"]
    end = len(text) if end is None else end
    inside = [i for i, (a, b) in enumerate(spans) if a < b and a < end]
    return models.encode(pipe, [text])[0, max(inside, default=0) :].cpu().double()
