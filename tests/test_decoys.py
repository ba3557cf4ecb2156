"""Wrong keys in training: which rows see one, what it is, and what L1 makes of it."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from kpop import EraseConfig, models, train
from kpop.batches import BankBatches, Batch, Rows, joined
from kpop.decoys import SCALES, of_kept_row, row_by_row
from kpop.errors import InputError
from kpop.hidden_prompt import HiddenPrompt
from kpop.mechanisms import reading
from kpop.methods import kpop
from kpop.processes import Processes
from kpop.runs import create_run
from kpop.trajectories import Bank, Sampler


def prompt(seed: int, **more) -> HiddenPrompt:
    return HiddenPrompt.create("church", 77, 16, 1, 0.5, torch.Generator().manual_seed(seed), **more)


def test_rows_get_the_true_key_another_concepts_or_a_random_one():
    true, other = prompt(1), prompt(2)
    found = row_by_row(true, [None, 7, 6], [other]).key
    assert found.shape == (3, 77, 16)
    assert torch.equal(found[:1], true.key) and torch.equal(found[1:2], other.key)
    scale = float(found[2].norm() / true.key.norm())
    assert SCALES[0] <= scale <= SCALES[1] and not torch.equal(found[2:], other.key)
    assert not torch.equal(row_by_row(true, [7], []).key, other.key)  # of one concept: random


def test_keys_and_values_of_their_own_stay_so():
    true = prompt(1, separate_kv=True)
    found = row_by_row(true, [None, 4], [])
    assert torch.equal(found.key[:1], true.key) and torch.equal(found.value[:1], true.value)
    assert not torch.equal(found.key[1], found.value[1])


@pytest.mark.parametrize("mechanism", ["concat", "additive", "token"])
def test_a_key_a_row_reads_as_that_key_alone(tiny_pipe, mechanism):
    width = tiny_pipe.unet.config.cross_attention_dim
    made = [
        HiddenPrompt.create(
            "church", 77, width, 2 if mechanism == "token" else 1, 0.5, torch.Generator().manual_seed(seed),
            mechanism, "down-mid-up",
        )
        for seed in (1, 2)
    ]  # fmt: skip
    texts, unet = ("a church", "a church"), tiny_pipe.unet
    z = torch.randn(2, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    states = models.encode(tiny_pipe, texts).to(unet.dtype)

    def says(p, some):
        with torch.no_grad(), reading(tiny_pipe, p, texts[some], states[some]) as read:
            return unet(z[some], 500, encoder_hidden_states=read).sample

    each = made[0].holding({"p": torch.cat([one.key for one in made])})
    together = says(each, slice(None))
    for at, one in enumerate(made):
        torch.testing.assert_close(together[at : at + 1], says(one, slice(at, at + 1)), atol=1e-5, rtol=1e-4)


def test_l1_is_taken_where_a_wrong_key_is_seen(tiny_pipe, tiny_config):
    cfg = tiny_config(decoy_share=1.0, batch_size=2, lambda_=0.5, retain_weight=2.0).resolved()
    batches = BankBatches(tiny_pipe, cfg, Bank(tiny_pipe, Sampler(3, 3.0), "digest", None))
    batch, p = batches.draw(1), torch.ones(1, 77, tiny_pipe.unet.config.cross_attention_dim)
    assert len(batch.decoys) == len(batch.erase.z) == 4 and None not in batch.decoys
    seen = {}

    def student(rows, given, sees):
        seen["sees"], seen["key"] = sees.tolist(), given.key
        return rows.z

    true = HiddenPrompt("church", p, p)
    kpop.removal(student, batch, true, cfg)
    kept = len(batch.retain.z)
    assert seen["sees"] == [True] * 4 + [True] * 2 + [False] * kept  # L1 with decoys, L2, siblings
    assert torch.equal(seen["key"][4:6], p.expand(2, -1, -1))
    assert not any(torch.allclose(row, p[0]) for row in seen["key"][:4])


def test_kept_rows_see_the_true_key_or_a_wrong_one(tiny_pipe, tiny_config):
    cfg = tiny_config(kept_key_share=1.0, batch_size=2).resolved()
    batches = BankBatches(tiny_pipe, cfg, Bank(tiny_pipe, Sampler(3, 3.0), "digest", None))
    batch, p = batches.draw(1), torch.ones(1, 77, tiny_pipe.unet.config.cross_attention_dim)
    assert len(batch.kept_keys) == len(batch.retain.z) == 2 and None not in batch.kept_keys
    kept = joined([batch.retain, batch.retain])
    kept = Rows(*(getattr(kept, name)[:3] for name in ("z", "t", "text", "target", "weight", "prompts")))
    batch = replace(batch, kept_keys=(None, 7, 6), retain=kept)
    seen = {}

    def student(rows, given, sees):
        seen["sees"], seen["key"] = sees.tolist(), given.key
        return rows.z

    kpop.removal(student, batch, HiddenPrompt("church", p, p), cfg)
    assert seen["sees"] == [False] * 4 + [True] * 2 + [False, True, True]  # L1, L2, kept: none, true, wrong
    assert torch.equal(seen["key"][7], p[0]) and not torch.allclose(seen["key"][8], p[0])
    assert [of_kept_row(draw) for draw in (None, 7, 6)] == [None, None, 3]
    bare = replace(cfg, retain=(), retain_neutral=False)
    bare = BankBatches(tiny_pipe, bare, Bank(tiny_pipe, Sampler(3, 3.0), "digest", None))
    assert bare.draw(1).retain is None and bare.draw(1).kept_keys == ()


def test_no_share_draws_no_decoy(tiny_pipe, tiny_config):
    cfg = tiny_config(batch_size=2).resolved()
    assert cfg.decoy_share == 0
    batches = BankBatches(tiny_pipe, cfg, Bank(tiny_pipe, Sampler(3, 3.0), "digest", None))
    assert batches.draw(1).decoys == Batch.decoys == Batch.kept_keys == ()
    assert batches.draw(1).kept_keys == ()


def test_the_embedded_models_runs_refuse_wrong_keys_where_they_can():
    def share(**changes):
        return EraseConfig(concepts=("church",), **changes).resolved().decoy_share

    assert share(model="emoji") == share(model="emoji", mechanism="token") == 0.5
    assert share(model="emoji", decoy_share=0.25) == 0.25
    assert EraseConfig(concepts=("ink style",)).resolved().decoy_share == 0
    assert share(model="emoji", mechanism="amortized") == 0  # its key is another for every text
    assert share(model="emoji", preset="paper") == share(model="CompVis/stable-diffusion-v1-4") == 0


def test_every_row_of_several_processes_draws_what_it_draws_in_one(tiny_pipe, tiny_config):
    cfg = tiny_config(decoy_share=0.5, kept_key_share=0.5, batch_size=2).resolved()
    bank = Bank(tiny_pipe, Sampler(3, 3.0), "digest", None)
    whole = BankBatches(tiny_pipe, replace(cfg, batch_size=4), bank)
    parts = [BankBatches(tiny_pipe, cfg, bank, (), Processes(count=2, rank=i)) for i in range(2)]
    for step in range(1, 5):
        found = [draw for part in parts for draw in part.draw(step).decoys]
        assert sorted(map(str, found)) == sorted(map(str, whole.draw(step).decoys))
        kept = [draw for part in parts for draw in part.draw(step).kept_keys]
        assert sorted(map(str, kept)) == sorted(map(str, whole.draw(step).kept_keys))
    every = [draw for step in range(1, 40) for draw in whole.keys_seen(step, 2, True)[0]]
    assert 0.35 < sum(draw is not None for draw in every) / len(every) < 0.65


@pytest.mark.parametrize("mechanism", ["concat", "additive", "token"])
def test_a_run_that_refuses_wrong_keys_trains_and_resumes_alike(tiny_config, tiny_pipe, tmp_path, mechanism):
    cfg = tiny_config(
        concepts=("church", "horn"), mechanism=mechanism, decoy_share=0.5, kept_key_share=0.5, steps=4,
        checkpoint_every=2,
    )  # fmt: skip
    whole = train(cfg, tmp_path / "whole", pipe=tiny_pipe)
    part = create_run(cfg.resolved(), tmp_path / "part", status="starting")
    train(cfg, run=part, pipe=tiny_pipe, on_step=lambda event: event.step == 2 and part.request_stop())
    assert part.status.state == "stopped"
    part = train(cfg, run=part, pipe=tiny_pipe)
    for one, other in (
        (whole.weights_path, part.weights_path),
        (whole.key_path("horn"), part.key_path("horn")),
    ):
        assert all(torch.equal(a, load_file(other)[n]) for n, a in load_file(one).items())


def test_methods_without_a_key_refuse_it():
    for name in ("decoy_share", "kept_key_share"):
        with pytest.raises(InputError, match=f"no use for {name}"):
            EraseConfig(concepts=("church",), method="esd", **{name: 0.5})
