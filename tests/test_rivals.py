"""The rivals of KPOP against their published equations, and whole runs of each that leave no key."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file

from kpop import EraseConfig, InputError, RunError, compare, generate, models, open_run, train
from kpop.batches import BankBatches
from kpop.config import CHOICES
from kpop.fresh_batches import FreshBatches
from kpop.methods import load_method
from kpop.training import _Training
from kpop.trajectories import Bank, Sampler


class Halt(Exception):
    pass


def prepared(cfg, pipe):
    """A training before its first step, and its rows."""
    training = _Training(cfg, None, pipe, None, lambda: None, None)
    training.precision, training.model_hash, training.base = "fp32", "", None
    training.method = load_method(cfg.method)
    training._prepare()
    sampler = Sampler(cfg.rollout_steps, cfg.rollout_guidance, "fp32")
    if cfg.latents == "fresh":
        return training, FreshBatches(pipe, cfg, sampler, lambda: training.delta.applied(pipe.unet))
    return training, BankBatches(pipe, cfg, Bank(pipe, sampler, "digest", None))


def eps(unet, pipe, z, t, text):
    """Plain diffusers: the U-Net's answer to one latent and one text."""
    state = models.encode(pipe, [text])
    return unet(z[None], torch.tensor([int(t)]), encoder_hidden_states=state).sample[0]


def says(pipe, rows, i):
    """Which text row i was given, of those that may stand in a batch of these tests."""
    for text in ("church", "a church", "", "castle", "a castle", "background"):
        if torch.equal(rows.text[i], models.encode(pipe, [text])[0]):
            return text
    raise AssertionError("a text that nobody asked for")


def stands_in(z, trajectories):
    return bool((trajectories.z == z).flatten(2).all(2).any())


def mean(values):
    return float(torch.stack(list(values)).mean().detach())


def shaken(training, pipe):
    """A U-Net of theta', which is moved a little away from theta first."""
    with torch.no_grad():
        for tensor in training.delta.tensors.values():
            tensor += 0.01 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))
    moved = copy.deepcopy(pipe.unet)
    moved.load_state_dict({**moved.state_dict(), **training.delta.tensors})
    return moved


@pytest.mark.parametrize("latents", ["bank", "fresh"])
@pytest.mark.parametrize("eta", [None, 0.5])
def test_esd_is_its_equation_7(tiny_pipe, tiny_config, eta, latents):
    cfg = tiny_config(method="esd", negative_guidance=eta, latents=latents, templates=("{}",)).resolved()
    assert cfg.negative_guidance == (1.0 if eta is None else eta)
    training, batches = prepared(cfg, tiny_pipe)
    moved = shaken(training, tiny_pipe)
    batch = batches.draw(1)
    if latents == "bank":  # one row a row of the batch, on the concept's own trajectories only
        assert len(batch.erase.z) == cfg.batch_size
        assert all(stands_in(z, batches.bank["church"]) for z in batch.erase.z)
    wanted = []
    with torch.no_grad():
        for z, t in zip(batch.erase.z, batch.erase.t, strict=True):
            concept = eps(tiny_pipe.unet, tiny_pipe, z, t, "church")
            empty = eps(tiny_pipe.unet, tiny_pipe, z, t, "")
            goal = empty - cfg.negative_guidance * (concept - empty)
            wanted.append((eps(moved, tiny_pipe, z, t, "church") - goal).square().mean())
    assert training._step(batches, 1)["l_erase"] == pytest.approx(mean(wanted), abs=1e-5, rel=1e-4)


def test_the_rows_to_keep_are_those_of_kpop(tiny_pipe, tiny_config):
    cfg = tiny_config(method="esd", retain_weight=2).resolved()
    training, batches = prepared(cfg, tiny_pipe)
    kpops = BankBatches(tiny_pipe, tiny_config().resolved(), Bank(tiny_pipe, Sampler(3, 3.0), "digest", None))
    batch, theirs = batches.draw(1), kpops.draw(1)
    for name in ("z", "t", "text", "target"):
        assert torch.equal(getattr(batch.retain, name), getattr(theirs.retain, name))
        assert torch.equal(getattr(batch.concept, name), getattr(theirs.concept, name))
    loss, named = training.method.removal(training.student, batch, None, cfg)
    assert float(loss.detach()) == pytest.approx(float((named["l_erase"] + 2 * named["l_retain"]).detach()))
    alone = tiny_config(method="esd", retain_weight=0).resolved()
    training, batches = prepared(alone, tiny_pipe)
    assert set(training._step(batches, 1)) == {"l_erase"}  # ESD as published


def test_ca_aims_at_its_own_answer_to_the_anchor(tiny_pipe, tiny_config):
    cfg = tiny_config(method="ca", neutral="background", templates=("{}",), batch_size=1).resolved()
    assert (cfg.trainable, cfg.negative_guidance) == ("kv", 0.0)
    training, batches = prepared(cfg, tiny_pipe)
    moved = shaken(training, tiny_pipe)
    batch = batches.draw(1)
    assert len(batch.erase.z) == 1 and stands_in(batch.erase.z[0], batches.bank["background"])
    weights = {name: weight.requires_grad_() for name, weight in moved.named_parameters() if ".to_k." in name}
    z, t = batch.erase.z[0], batch.erase.t[0]
    goal = eps(moved, tiny_pipe, z, t, "background").detach()
    l_erase = (eps(moved, tiny_pipe, z, t, "church") - goal).square().mean()
    loss, named = training.method.removal(training.student, batch, None, cfg)
    assert float(named["l_erase"].detach()) == pytest.approx(float(l_erase.detach()), abs=1e-5, rel=1e-4)
    cross = [name for name in training.delta.tensors if ".to_k." in name]
    by_hand = torch.autograd.grad(l_erase, [weights[name] for name in cross])
    ours = torch.autograd.grad(named["l_erase"], [training.delta.tensors[name] for name in cross])
    for one, other in zip(by_hand, ours, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-3)


def test_ca_rolls_out_towards_the_anchor(tiny_pipe, tiny_config):
    """Fresh latents depend on the anchor, not on the concept."""
    found = []
    for concept, neutral in (("church", "background"), ("castle", "background"), ("church", "")):
        cfg = tiny_config(
            method="ca", concepts=(concept,), retain=(), neutral=neutral, latents="fresh", seed=3
        ).resolved()
        found.append(prepared(cfg, tiny_pipe)[1].draw(2).erase.z)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


STEPWISE = ("esd", "ca")


def tensors(path):
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("method", STEPWISE)
def test_a_rival_trains_samples_and_leaves_no_secret(tiny_config, tiny_pipe, tmp_path, method):
    events = []
    run = train(tiny_config(method=method, sample_every=2), tmp_path, pipe=tiny_pipe, on_step=events.append)
    assert (run.status.state, run.status.step) == ("done", 4)
    assert set(events[0].losses) == {"l_erase", "l_retain"} and not any(event.cosines for event in events)
    assert list(run.secret_dir.iterdir()) == []
    assert set(run.samples()[-1][1]) == {"original", "sanitized", "kept"}
    before = dict(tiny_pipe.unet.named_parameters())
    assert any(not torch.equal(tensor, before[name]) for name, tensor in tensors(run.weights_path).items())


@pytest.mark.parametrize(
    ("method", "changes"), [(m, c) for m in STEPWISE for c in ({}, {"latents": "fresh", "batch_size": 1})]
)
def test_resuming_a_rival_equals_never_stopping(tiny_config, tiny_pipe, tmp_path, method, changes):
    cfg = tiny_config(method=method, **changes)
    whole = train(cfg, tmp_path / "whole", pipe=tiny_pipe)

    def halt(event):
        if event.step == 3:  # after the checkpoint of step 2
            raise Halt

    with pytest.raises(Halt):
        train(cfg, tmp_path / "torn", pipe=tiny_pipe, on_step=halt)
    (torn,) = (path for path in (tmp_path / "torn").iterdir() if (path / "config.json").exists())
    run = open_run(torn)
    assert run.checkpoint_step() == 2
    run = train(run.config, run=run, pipe=tiny_pipe)
    assert same(tensors(whole.weights_path), tensors(run.weights_path))
    losses = [[{k: v for k, v in row.items() if k != "seconds"} for row in r.metrics()] for r in (run, whole)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("trainable", ["xattn", "noxattn"])
def test_esd_x_and_esd_u(tiny_config, tiny_pipe, tmp_path, trainable):
    run = train(tiny_config(method="esd", trainable=trainable, steps=1), tmp_path, pipe=tiny_pipe)
    assert all((".attn2." in name) == (trainable == "xattn") for name in tensors(run.weights_path))


def test_a_run_without_a_key_is_drawn_without_one(tiny_config, tiny_pipe, tmp_path):
    run = train(tiny_config(method="esd", steps=1), tmp_path, pipe=tiny_pipe)
    with pytest.raises(RunError, match="made by ESD, which leaves no key; "):
        generate(tiny_pipe, "a church", 0, "recovered", run)
    with pytest.raises(RunError, match="leaves no key"):
        run.key_path("church")
    drawn = compare(tiny_pipe, "a church", [0], run)
    assert list(drawn) == ["original", "sanitized"]
    sanitized = generate(tiny_pipe, "a church", 0, "sanitized", run)[0]
    assert drawn["sanitized"][0].tobytes() == sanitized.tobytes() != drawn["original"][0].tobytes()


# Settings


@pytest.mark.parametrize("method", CHOICES["method"])
@pytest.mark.parametrize("model", ["emoji", "CompVis/stable-diffusion-v1-4"])
@pytest.mark.parametrize("preset", [None, "paper", "nudity", "emoji-objects-v1"])
def test_every_method_resolves_for_every_model_and_preset(method, model, preset):
    concepts = ("church",) if preset in (None, "paper") else ()
    cfg = EraseConfig(model=model, concepts=concepts, method=method, preset=preset).resolved()
    free = ("base_run", "preset", "rho", "rho_p", "seed")
    assert None not in {value for name, value in vars(cfg).items() if name not in free}
    assert cfg.resolved() == cfg == EraseConfig.from_dict(json.loads(json.dumps(cfg.to_dict())))
    if method == "esd":
        assert (cfg.negative_guidance, cfg.lambda_) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("fields", "erase_on"),
    [({}, "both"), ({"method": "esd"}, "concept"), ({"method": "ca"}, "neutral"),
     ({"preset": "paper"}, "concept"), ({"erase_on": "neutral"}, "neutral"), ({"method": "uce"}, "concept")],
)  # fmt: skip
def test_each_method_erases_on_trajectories_of_its_own(fields, erase_on):
    assert EraseConfig(concepts=("church",), **fields).resolved().erase_on == erase_on


def test_kpop_resolves_as_it_did():
    cfg = EraseConfig(concepts=("church",)).resolved()
    assert (cfg.negative_guidance, cfg.lambda_, cfg.trainable, cfg.steps) == (0.5, 1.0, "xattn", 340)


@pytest.mark.parametrize(
    ("fields", "rate"),
    [
        ({}, 2e-3),
        ({"retain": ("castle",)}, 2e-3),
        ({"retain": ()}, 5e-4),
        ({"preset": "paper", "retain": ("castle",)}, 1e-5),
        ({"learning_rate": 1e-3}, 1e-3),
        ({"model": "CompVis/stable-diffusion-v1-4", "retain": ("castle",)}, 8e-6),
    ],
)
def test_ca_takes_four_times_the_rate_where_the_embedded_model_retains(fields, rate):
    assert EraseConfig(concepts=("church",), method="ca", **fields).resolved().learning_rate == rate


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"method": "esd", "lambda_": 0.3}, "ESD has no use for lambda: leave it out or set it to 0.0"),
        ({"method": "esd", "prompt_tokens_factor": 10}, "no use for prompt_tokens_factor"),
        ({"method": "esd", "key_retain_weight": 1}, "no use for key_retain_weight"),
        ({"method": "esd", "prompt_sharing": "shared"}, "no use for prompt_sharing"),
        ({"method": "esd", "rho_p": 1.0}, "no use for rho_p: leave it out[.]"),
        ({"method": "ca", "negative_guidance": 1}, "CA has no use for negative_guidance"),
        (
            {"method": "uce", "trainable": "xattn"},
            "no use for trainable: leave it out or set it to kv",
        ),
        ({"method": "uce", "steps": 200}, "UCE has no use for steps: leave it out or set it to 1"),
        ({"method": "uce", "latents": "fresh"}, "no use for latents"),
        ({"method": "sld", "learning_rate": 1e-5}, "SLD has no use for learning_rate"),
        ({"method": "sld", "base_run": "some-run"}, "SLD has no use for base_run: leave it out[.]"),
    ],
)
def test_what_a_method_has_no_use_for_is_refused(fields, told):
    with pytest.raises(InputError, match=told):
        EraseConfig(concepts=("church",), **fields)
