"""Estimates against what a run then does: rows counted on the U-Net, bytes counted in a real step."""

import gc
import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks.measure import Rows
from kpop import cli, train
from kpop.batches import BankBatches
from kpop.continual import earlier_of
from kpop.estimate import Live, bank_rows, estimate, estimate_run, gigabytes, rows_of_steps
from kpop.fresh_batches import FreshBatches
from kpop.runs import list_runs
from kpop.weights import trainable_names

CHOICES = [
    {},
    {"trainable": "full", "batch_size": 3},
    {"trainable": "kv", "prompt_tokens_factor": 4, "sites": "mid"},
    {"mechanism": "additive", "precision": "bf16"},
    {"mechanism": "token"},
    {"mechanism": "token", "gradient_checkpointing": True},
    {"mechanism": "amortized", "batch_size": 4},
    {"decoy_share": 0.5, "prompt_tokens_factor": 2},
    {"separate_kv": True, "negative_guidance": 1.0, "neutral": "castle", "retain": ()},
    {"retain": (), "retain_neutral": False, "concepts": ("church", "background")},
    {"latents": "fresh", "rollout_steps": 2},
    {"preset": "paper", "rollout_steps": 2},
    {"method": "esd", "negative_guidance": None},
    {"method": "ca", "negative_guidance": None},
]


def check_against_a_run(cfg, pipe, folder, monkeypatch, earlier=()):
    """Rows of a run of two steps, and the bytes of its second, when Adam's moments are there."""
    rows, lives, banks = Rows(), [], []
    rows.watch(pipe.unet)
    kind = FreshBatches if cfg.latents == "fresh" else BankBatches
    draw = kind.draw

    def drawn(self, step):
        batch = draw(self, step)
        banks.append([*self.bank.values(), *self.opened] if kind is BankBatches else [])
        if step == 2:
            lives.append(Live([one for one in gc.get_objects() if isinstance(one, Tensor)]))
            lives[0].__enter__()
        return batch

    monkeypatch.setattr(kind, "draw", drawn)
    on_step = lambda event: lives[0].__exit__(None, None, None) if event.step == 2 else None  # noqa: E731
    try:
        run = train(cfg, folder, pipe=pipe, on_step=on_step)
    finally:
        pipe.unet._forward_pre_hooks.clear()
        pipe.unet._forward_pre_hooks_with_kwargs.clear()
    found = estimate_run(cfg, pipe, earlier)
    assert rows.backward == 2 * found.backward_rows
    if cfg.latents == "bank":
        assert rows.forward == found.total_rows == found.bank_rows + 2 * found.step_rows
    else:
        assert found.bank_rows == 0 and found.step_rows > found.backward_rows
    assert rows_of_steps(cfg, pipe.unet, earlier) == (2 * found.step_rows, 2 * found.backward_rows)
    held = [one for bank in banks[-1] for one in (bank.z, *bank.eps.values())]
    assert found.bank == sum(one.numel() * one.element_size() for one in held)
    made = found.activations + found.gradients
    assert lives[0].peak == pytest.approx(made, rel=0.05)
    assert found.trained == pytest.approx(run.weights_path.stat().st_size, rel=0.05)
    return found


@pytest.mark.parametrize("changes", CHOICES)
def test_rows_and_bytes_are_those_of_a_real_run(tiny_config, tiny_pipe, tmp_path, monkeypatch, changes):
    check_against_a_run(tiny_config(steps=2, **changes).resolved(), tiny_pipe, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    "changes", [{}, {"mechanism": "token"}, {"retain_weight": 0.0}, {"latents": "fresh", "rollout_steps": 2}]
)
def test_what_an_earlier_run_hides_is_in_the_estimate(tiny_config, tiny_pipe, tmp_path, monkeypatch, changes):
    first = train(tiny_config(retain=("castle", "tower")), tmp_path, pipe=tiny_pipe)
    cfg = tiny_config(steps=2, concepts=("house",), **changes)
    plain = estimate_run(cfg.resolved(), tiny_pipe)
    cfg = replace(cfg, base_run=first.id).resolved()
    found = check_against_a_run(cfg, tiny_pipe, tmp_path, monkeypatch, earlier_of(cfg, tmp_path))
    assert found.weights > plain.weights
    assert (found.step_rows > plain.step_rows) == (cfg.retain_weight > 0)


def test_the_parts_are_exact(tiny_config, tiny_pipe):
    cfg = tiny_config(concepts=("church", "background"), separate_kv=True, prompt_tokens_factor=2).resolved()
    found = estimate(cfg, tiny_pipe)
    sizes = dict(tiny_pipe.unet.named_parameters())
    moved = sum(sizes[name].numel() for name in trainable_names(tiny_pipe.unet, "xattn"))
    assert found.trainable_parameters == moved
    assert (found.trained, found.gradients, found.adam) == (4 * moved, 4 * moved, 8 * moved)
    beside = [tiny_pipe.unet, tiny_pipe.vae, tiny_pipe.text_encoder]
    every = [one for part in beside for one in (*part.parameters(), *part.buffers())]
    assert found.weights == sum(one.numel() * one.element_size() for one in every)
    assert found.prompt_shape == (1, 154, 32) and found.prompt_parameters == 2 * 2 * 154 * 32
    assert found.prompts == 16 * found.prompt_parameters
    tensors = found.weights + found.trained + found.gradients + found.adam + found.activations + found.bank
    assert found.memory - found.overhead == pytest.approx(tensors + found.prompts, rel=0.05)
    taken = found.memory - found.overhead - found.weights  # on a CPU: two kinds of step, a quarter in gaps
    assert found.overhead == pytest.approx(2 * 70 * 2**20 + taken / 4, abs=1)


def test_the_more_is_trained_at_once_the_more_it_takes(tiny_config, tiny_pipe):
    def memory(**changes):
        return estimate(tiny_config(**changes).resolved(), tiny_pipe).memory

    assert memory(batch_size=1) < memory(batch_size=2) < memory(batch_size=8)
    assert memory(trainable="kv") < memory(trainable="xattn") < memory(trainable="full")


def test_an_estimate_leaves_the_model_alone(tiny_config, tiny_pipe):
    before = {name: (weight, weight.clone()) for name, weight in tiny_pipe.unet.named_parameters()}
    processors = {name: id(one) for name, one in tiny_pipe.unet.attn_processors.items()}
    estimate(tiny_config().resolved(), tiny_pipe)
    for name, weight in tiny_pipe.unet.named_parameters():
        assert weight is before[name][0] and torch.equal(weight, before[name][1])
    assert processors == {name: id(one) for name, one in tiny_pipe.unet.attn_processors.items()}


def test_the_bank_of_a_long_list(tiny_config):
    cfg = tiny_config(
        retain=("castle", "background"), steps=100, templates=("{}",), rollout_steps=5
    ).resolved()
    assert bank_rows(cfg) == 5 * 2 * (8 + 8 + 18 + 18)


@pytest.mark.parametrize("count, told", [(3_440_000_000, "3.4 GB"), (123_000_000, "0.12 GB")])
def test_gigabytes(count, told):
    assert gigabytes(count) == told


def test_a_dry_run_says_what_it_would_be_and_makes_no_run(tiny_folder, tmp_path, capfd):
    line = ["train", "--dry-run", "--model", str(tiny_folder), "--concepts", "church", "--retain", "castle",
            "--steps", "3", "--device", "cpu", "--precision", "fp32"]  # fmt: skip
    assert cli.main(line) == 0
    out, err = capfd.readouterr()
    told = json.loads(out)
    assert told["config"]["steps"] == 3 and told["config"]["lambda"] is not None
    assert told["estimate"]["total_rows"] == told["estimate"]["bank_rows"] + 3 * told["estimate"]["step_rows"]
    assert 0 < told["estimate"]["seconds"] < 600
    assert re.search(r" GB and \d+ s on cpu, as it is at this moment; ", err)
    assert "Nothing was trained" in err and [run for run in list_runs() if not run.is_example] == []


def test_a_dry_run_knows_words_like_a_run_does(tiny_copy, capfd):
    (tiny_copy / "words.json").write_text('{"church": 1}')
    assert cli.main(["train", "--dry-run", "--model", str(tiny_copy), "--concepts", "chruch"]) == 2
    assert "does not know the word 'chruch'" in capfd.readouterr().err


def test_an_sd_shaped_model_is_estimated_in_its_own_sizes(sd_folder, tmp_path):
    from kpop import EraseConfig, load_pipeline

    folder = shutil.copytree(sd_folder, tmp_path / "model")
    pipe = load_pipeline(str(folder), device="cpu", dtype="fp32")
    cfg = EraseConfig(model=str(folder), concepts=("church",), trainable="xattn").resolved()
    found = estimate_run(cfg, pipe)
    # q of the last level alone, twice in each of 4 rows: [64 * 64, 32] float32
    assert found.activations > 4 * 2 * 64 * 64 * 32 * 4 and found.prompt_shape == (1, 77, 768)
