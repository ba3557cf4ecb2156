"""Gradient checkpointing: the same losses and weights, in less memory."""

import pytest
import torch
from safetensors.torch import load_file

from kpop import train
from kpop.estimate import estimate

CHOICES = [
    {},
    {"trainable": "full", "separate_kv": True},
    {"mechanism": "additive"},
    {"mechanism": "token"},
    {"mechanism": "amortized"},
    {"latents": "fresh", "batch_size": 1},
    {"precision": "bf16"},
]


@pytest.mark.parametrize("changes", CHOICES)
def test_losses_weights_and_key_are_the_same(tiny_config, tiny_pipe, tmp_path, changes):
    runs = [
        train(tiny_config(gradient_checkpointing=on, **changes), tmp_path / str(on), pipe=tiny_pipe)
        for on in (False, True)
    ]
    plain, again = (
        [{n: v for n, v in row.items() if n.startswith("l_")} for row in run.metrics()] for run in runs
    )
    assert plain == again
    for path in (lambda run: run.weights_path, lambda run: run.key_path()):
        one, other = (load_file(path(run)) for run in runs)
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert not any(getattr(part, "gradient_checkpointing", False) for part in tiny_pipe.unet.modules())


def test_it_needs_less_memory(tiny_config, tiny_pipe):
    def found(on):
        return estimate(tiny_config(gradient_checkpointing=on, batch_size=8).resolved(), tiny_pipe)

    assert found(True).activations < 0.8 * found(False).activations
    assert found(True).backward_rows == found(False).backward_rows
