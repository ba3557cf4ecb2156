"""What cross-attention looked at during one generation, summed on the device while it is computed."""

from __future__ import annotations

from collections.abc import Callable

import torch

BANDS = 5  # of the sampling steps, from noise (0) to picture (4)


class AttentionRecorder:
    """Running sums of attention, on the device that computes it: pass as generate(..., recorder=).

    Per layer one float32 tensor [BANDS, rows, heads, Q, columns]; columns are the prompt's tokens (start,
    words, end) and, last, the mass on the hidden prompt. Neither steps nor the length of p make it grow.
    """

    def __init__(self, rows: int, steps: int, columns: int, text_length: int):
        self.rows, self.steps, self.columns, self.text_length = rows, steps, columns, text_length
        self.step = 0
        self.sums: dict[str, torch.Tensor] = {}

    def add(self, name: str, probs: torch.Tensor, start: int, positions: int) -> None:
        """Add probabilities [rows, heads, part, K] of the positions from `start`, of `positions` in all.

        rows: of a guided batch the conditional ones only, the last.
        """
        probs = probs.detach()
        rows, heads, part, keys = probs.shape
        if name not in self.sums:
            shape = (BANDS, rows, heads, positions, self.columns + 1)
            self.sums[name] = torch.zeros(shape, dtype=torch.float32, device=probs.device)
        band = self.sums[name][_band(self.step, self.steps)][:, :, start : start + part]
        band[..., : self.columns] += probs[..., : self.columns]
        if keys > self.text_length:
            band[..., -1] += probs[..., self.text_length :].sum(-1, dtype=torch.float32)

    def next_step(self) -> None:
        self.step += 1

    def steps_per_band(self) -> tuple[int, ...]:
        return steps_per_band(self.steps, self.step)


class Whole:
    """A plain function recorder(name, probs), which is given every row and position at once."""

    rows = None

    def __init__(self, function: Callable[[str, torch.Tensor], None]):
        self.function = function

    def add(self, name: str, probs: torch.Tensor, start: int, positions: int) -> None:
        self.function(name, probs)


def in_parts(recorder):
    """A recorder that has `rows` and `add`: itself, or a plain function as one."""
    return recorder if hasattr(recorder, "add") else Whole(recorder)


def steps_per_band(steps: int, done: int | None = None) -> tuple[int, ...]:
    """How many steps of a drawing of `steps` fall into each band; of the first `done` of them."""
    bands = [_band(step, steps) for step in range(steps if done is None else done)]
    return tuple(bands.count(band) for band in range(BANDS))


def _band(step: int, steps: int) -> int:
    return min(step * BANDS // steps, BANDS - 1)
