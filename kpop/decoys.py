"""Keys that must not open: random ones, and those of a run's other concepts. Ours; not in the paper.

Eq. 7 asks theta' to forget under the text alone. A p that says nothing of the concept then opens it too, for
theta' never saw one that must not; here L1 sees them. What is retained can see them, too, and true ones:
where L1 alone does, theta' learns to draw less beside any p.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .hidden_prompt import HiddenPrompt

SCALES = (0.5, 1.5)  # of a random key's norm, times the true one's


def of_kept_row(draw: int | None) -> int | None:
    """What `row_by_row` takes for a retained row that sees a key: every other draw is the true one."""
    return None if draw is None or draw % 2 else draw // 2


def row_by_row(p: HiddenPrompt, draws: Sequence[int | None], others: Sequence[HiddenPrompt]) -> HiddenPrompt:
    """p with a key a row, tensors [B, m, d]: its own where the draw is None, else a decoy's.

    others: keys of the run's other concepts; where there are any they serve every other draw. Not for keys
    with a network, which is one for all rows.
    """
    rows = [p if draw is None else _decoy(p, draw, others) for draw in draws]
    key = torch.cat([row.key for row in rows])
    value = key if p.value is p.key else torch.cat([row.value for row in rows])
    named = {"p": key} if p.value is p.key else {"p_k": key, "p_v": value}
    return p.holding(named)


def _decoy(p: HiddenPrompt, draw: int, others: Sequence[HiddenPrompt]) -> HiddenPrompt:
    if others and draw % 2:
        return others[draw // 2 % len(others)]
    return random_key(p, draw, SCALES)


def random_key(true: HiddenPrompt, seed: int, scales: tuple[float, float] = (1.0, 1.0)) -> HiddenPrompt:
    """Gaussian tensors of the true key's shapes, each of its L2 norm there times a draw from `scales`."""
    generator = torch.Generator().manual_seed(seed)
    low, high = scales
    scale = low + (high - low) * float(torch.rand((), generator=generator)) if high > low else low
    found = {}
    for name, tensor in true.tensors.items():
        noise = torch.randn(tensor.shape, generator=generator)
        found[name] = (noise * (scale * tensor.float().norm().cpu() / noise.norm())).to(tensor.device)
    return true.holding(found)
