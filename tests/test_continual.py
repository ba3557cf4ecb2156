"""Erasing again on top of an earlier run: its keys come along, and what they open is retained."""

import pytest
import torch

from kpop import generate, models, train
from kpop.batches import ALONE, Batches
from kpop.continual import forgotten, judged_config, key_files, start_of
from kpop.evaluation.protocol import role_of
from kpop.hidden_prompt import HiddenPrompt
from kpop.mechanisms import reading
from kpop.models import encode
from kpop.trajectories import Bank, Sampler
from kpop.weights import WeightDelta


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def first(tiny_config, tiny_pipe, folder):
    return train(tiny_config(concepts=(("church", "chapel"),)), folder, pipe=tiny_pipe)


@pytest.fixture(scope="module")
def second(tiny_config, tiny_pipe, folder, first):
    return train(tiny_config(concepts=("house",), base_run=first.id), folder, pipe=tiny_pipe)


def test_a_second_run_hides_both_and_holds_both_keys(first, second, tiny_pipe):
    assert list(key_files(second)) == ["house", ("church", "chapel")]
    assert [item.concept for item in forgotten(second)] == [("church", "chapel"), "house"]
    copy, own = (HiddenPrompt.load(key_files(run)[("church", "chapel")]) for run in (second, first))
    assert torch.equal(copy.key, own.key)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in key_files(second).values())
    pictures = [
        generate(tiny_pipe, "a chapel", 0, "recovered", second, key=key)[0].tobytes()
        for key in ("own", "church", first.key_path("church"), "house")
    ]
    assert pictures[0] == pictures[1] == pictures[2] != pictures[3]


def test_what_an_earlier_key_opens_is_kept_from_the_first_step(second):
    rows = second.metrics()
    assert rows[0]["l_earlier"] < 1e-10 < rows[-1]["l_earlier"]  # theta' is the earlier run's, then moves


def test_a_third_run_carries_every_key(tiny_config, tiny_pipe, folder, second):
    third = train(tiny_config(concepts=("tower",), base_run=second.id, steps=1), folder, pipe=tiny_pipe)
    assert list(key_files(third)) == ["tower", ("church", "chapel"), "house"]
    paths = third.earlier_key_paths()
    assert [path.name for path in paths] == ["earlier-00-church.safetensors", "earlier-01-house.safetensors"]


def test_fresh_latents_keep_earlier_keys_too(tiny_config, tiny_pipe, folder, first):
    cfg = tiny_config(concepts=("house",), base_run=first.id, latents="fresh", steps=2)
    assert {"l_earlier", "l_retain"} < set(train(cfg, folder, pipe=tiny_pipe).metrics()[-1])


def test_what_the_earlier_run_retained_is_retained_again(tiny_config, tiny_pipe, first, second):
    """Church and house were each erased beside a castle, which the third run does not name."""
    _, earlier, _ = start_of(tiny_config(base_run=second.id), second, models.model_hash(tiny_pipe))
    assert [item.siblings for item in earlier] == [("castle",), ("castle",)]
    cfg = tiny_config(concepts=("tower",), retain=("background",), templates=("a {}",)).resolved()
    made = Batches(tiny_pipe, cfg, earlier, ALONE)
    assert set(made.retained) == {"a background", "a church", "a chapel", "a house", "a castle"}
    assert made.near == [("a background", "a castle")]


def test_trajectories_of_a_key_are_what_it_opens_and_are_not_kept(first, tiny_pipe, tmp_path):
    key = HiddenPrompt.load(first.key_path("church"))
    bank = Bank(tiny_pipe, Sampler(3, 2.0), "digest", tmp_path)
    with WeightDelta.load(first.weights_path).applied(tiny_pipe.unet):
        found = bank.get("a church", 2, key=key)
        states = encode(tiny_pipe, ["a church"] * 2)
        with torch.no_grad(), reading(tiny_pipe, key, ["a church"] * 2, states) as read:
            expected = tiny_pipe.unet(found.z[1], found.timesteps[1], encoder_hidden_states=read).sample
    torch.testing.assert_close(found.eps["a church"][1], expected, atol=1e-5, rtol=0)
    assert list(tmp_path.iterdir()) == []


def test_what_was_forgotten_may_be_erased_again(tiny_config, tiny_pipe, folder, first):
    cfg = tiny_config(concepts=("church",), neutral="castle", retain=(), base_run=first.id, steps=2)
    run = train(cfg, folder, pipe=tiny_pipe)
    assert run.status.state == "done" and "l_earlier" not in run.metrics()[0]


def test_what_an_earlier_run_forgot_is_judged_as_erased(tiny_config, tiny_pipe, folder, first, second):
    assert judged_config(first) == first.config
    cfg = tiny_config(concepts=("tower",), retain=("castle", "chapel"), base_run=second.id, steps=1)
    third = judged_config(train(cfg, folder, pipe=tiny_pipe))
    roles = [role_of(word, third) for word in ("tower", "house", "church", "chapel", "castle", "bus")]
    assert roles == ["erased"] * 4 + ["retained", "untouched"]
    assert third.retain == ("castle",)
