"""theta': the five subsets, swapping by pointer, and the file of weights."""

import pytest
import torch

from kpop import InputError, ModelError, RunError
from kpop.weights import WeightDelta, distance, trainable_names


def test_subsets_hold_what_their_names_say(tiny_pipe):
    unet = tiny_pipe.unet
    every = {name for name, _ in unet.named_parameters()}
    xattn, kv, own, rest, full = (
        set(trainable_names(unet, subset)) for subset in ("xattn", "kv", "selfattn", "noxattn", "full")
    )
    assert full == every
    assert xattn == {name for name in every if ".attn2." in name}
    assert kv == {name for name in xattn if ".to_k." in name or ".to_v." in name}
    assert own == {name for name in every if ".attn1." in name}
    left_out = ("time_embedding.", "conv_norm_out.", "conv_out.")
    assert rest == {name for name in every - xattn if not name.startswith(left_out)}


def test_unknown_subset_and_unet_without_text_are_refused(tiny_pipe):
    with pytest.raises(InputError, match="trainable must be one of"):
        trainable_names(tiny_pipe.unet, "everything")
    with pytest.raises(ModelError, match="no cross-attention"):
        trainable_names(torch.nn.Linear(2, 2), "xattn")


def test_swapping_moves_no_memory_and_puts_theta_back(tiny_pipe):
    unet = tiny_pipe.unet
    before = dict(unet.named_parameters())
    delta = WeightDelta.create(unet, "kv")
    with delta.applied(unet):
        inside = dict(unet.named_parameters())
        assert all(inside[name] is delta.tensors[name] for name in delta.tensors)
        assert all(inside[name] is before[name] for name in before if name not in delta.tensors)
    assert all(now is before[name] for name, now in unet.named_parameters())
    with pytest.raises(ZeroDivisionError), delta.applied(unet):
        raise ZeroDivisionError
    assert all(now is before[name] for name, now in unet.named_parameters())


def test_gradients_reach_the_trained_copies_only(tiny_pipe):
    unet = tiny_pipe.unet
    delta = WeightDelta.create(unet, "xattn")
    with delta.applied(unet):
        unet(
            torch.ones(1, 4, 8, 8), 10, encoder_hidden_states=torch.ones(1, 77, 32)
        ).sample.square().mean().backward()
    assert all(tensor.grad is not None for tensor in delta.tensors.values())
    assert all(parameter.grad is None for parameter in unet.parameters())


def test_weights_read_back_and_fit_their_model_only(tiny_pipe, tmp_path):
    delta = WeightDelta.create(tiny_pipe.unet, "kv", "abc")
    delta.save(tmp_path / "w.safetensors")
    read = WeightDelta.load(tmp_path / "w.safetensors")
    assert read.model_hash == "abc" and read.about["trainable"] == "kv"
    assert float(distance(read.tensors, {n: t.detach() for n, t in delta.tensors.items()})) == 0
    other = WeightDelta({"mid_block.nowhere.weight": torch.zeros(2)})
    with pytest.raises(InputError, match="belong to another model"), other.applied(tiny_pipe.unet):
        pass


def test_damaged_or_foreign_files_are_run_errors(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"\x08")
    with pytest.raises(RunError, match="missing or damaged"):
        WeightDelta.load(tmp_path / "w.safetensors")
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(RunError, match="no weights of this program"):
        WeightDelta.load(tmp_path / "w.safetensors")


def test_a_delta_over_another_keeps_what_only_the_other_has():
    under = WeightDelta({"a": torch.zeros(1), "b": torch.zeros(1)})
    over = WeightDelta({"b": torch.ones(1)})
    assert {name: float(tensor) for name, tensor in over.over(under).tensors.items()} == {"a": 0.0, "b": 1.0}
