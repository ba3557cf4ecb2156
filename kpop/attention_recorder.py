"""What cross-attention looked at during one generation, summed on the device while it is computed."""

from __future__ import annotations

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

    def __call__(self, name: str, probs: torch.Tensor) -> None:
        """Add probabilities [B, heads, Q, K]: of a guided batch the conditional rows only, the last."""
        probs = probs.detach()[-self.rows :]
        rows, heads, positions, keys = probs.shape
        if name not in self.sums:
            shape = (BANDS, rows, heads, positions, self.columns + 1)
            self.sums[name] = torch.zeros(shape, dtype=torch.float32, device=probs.device)
        band = self.sums[name][self.band(self.step)]
        band[..., : self.columns] += probs[..., : self.columns]
        if keys > self.text_length:
            band[..., -1] += probs[..., self.text_length :].sum(-1, dtype=torch.float32)

    def band(self, step: int) -> int:
        return min(step * BANDS // self.steps, BANDS - 1)

    def next_step(self) -> None:
        self.step += 1

    def steps_per_band(self) -> tuple[int, ...]:
        bands = [self.band(step) for step in range(self.step)]
        return tuple(bands.count(band) for band in range(BANDS))
