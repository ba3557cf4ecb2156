"""Eq. 5-7 against literal numbers, and one whole step against plain diffusers calls and Adam written out."""

import copy

import pytest
import torch

from kpop import EraseConfig, models
from kpop.batches import Batch, Rows
from kpop.descent import descend
from kpop.methods import load_method

kpop = load_method("kpop")


def rows(z, target, weight=1.0):
    z = torch.tensor(z).view(-1, 1, 1, 2)
    count = len(z)
    return Rows(
        z,
        torch.zeros(count, dtype=torch.long),
        torch.zeros(count, 77, 4),
        torch.tensor(target).view(-1, 1, 1, 2),
        torch.full((count,), weight),
    )


def student(given, p, sees):
    """theta' says z; with p it says z + p."""
    seen = torch.ones(len(given.z)) if sees is None else sees.float()
    return given.z + (0 if p is None else p * seen.view(-1, 1, 1, 1))


@pytest.fixture
def batch():
    return Batch(
        0,
        concept=rows([[1.0, 2.0]], [[1.0, 4.0]]),
        erase=rows([[1.0, 2.0], [0.0, 3.0]], [[0.0, 0.0], [0.0, 1.0]]),
        retain=rows([[5.0, 5.0]], [[5.0, 4.0]]),
    )


def test_transfer_is_equation_6(batch):
    cfg = EraseConfig(concepts=("x",), key_retain_weight=0)
    loss, named = kpop.transfer(student, batch, torch.tensor(1.0), cfg)
    assert float(loss) == ((1 + 1 - 1) ** 2 + (2 + 1 - 4) ** 2) / 2 == 1.0
    assert {name: float(value) for name, value in named.items()} == {"l_transfer": 1.0}


def test_transfer_keeps_siblings_with_the_key_when_asked(batch):
    cfg = EraseConfig(concepts=("x",), key_retain_weight=0.5)
    loss, named = kpop.transfer(student, batch, torch.tensor(1.0), cfg)
    assert float(named["l_key_retain"]) == ((5 + 1 - 5) ** 2 + (5 + 1 - 4) ** 2) / 2 == 2.5
    assert float(loss) == 1.0 + 0.5 * 2.5


def test_removal_is_equation_7_and_only_l2_sees_p(batch):
    cfg = EraseConfig(concepts=("x",), lambda_=0.1, retain_weight=2)
    loss, named = kpop.removal(student, batch, torch.tensor(1.0), cfg)
    l1 = ((1 - 0) ** 2 + (2 - 0) ** 2 + (0 - 0) ** 2 + (3 - 1) ** 2) / 4
    l2 = ((1 + 1 - 1) ** 2 + (2 + 1 - 4) ** 2) / 2
    kept = ((5 - 5) ** 2 + (5 - 4) ** 2) / 2
    assert (l1, l2, kept) == (2.25, 1.0, 0.5)
    found = [float(named[name]) for name in ("l_erase", "l_recover", "l_retain")]
    assert found == [l1, l2, kept]
    assert float(loss) == pytest.approx(2.25 + 0.1 * 1.0 + 2 * 0.5)


def test_without_a_retain_list_eq_7_stands_alone(batch):
    cfg = EraseConfig(concepts=("x",), lambda_=0.1, retain_weight=2)
    loss, named = kpop.removal(student, Batch(0, batch.concept, batch.erase, None), torch.tensor(1.0), cfg)
    assert float(loss) == pytest.approx(2.25 + 0.1) and "l_retain" not in named


def test_rows_are_weighted(batch):
    cfg = EraseConfig(concepts=("x",), key_retain_weight=0)
    heavy = Batch(0, rows([[1.0, 2.0]], [[1.0, 4.0]], weight=3.0), batch.erase, None)
    assert float(kpop.transfer(student, heavy, torch.tensor(1.0), cfg)[0]) == 3.0


def test_a_step_is_eq_6_then_eq_7_by_plain_diffusers_calls(tiny_pipe, tiny_config):
    """p one Adam step with theta' fixed, then theta' one Adam step with the new p fixed."""
    from kpop.batches import BankBatches
    from kpop.training import _Training
    from kpop.trajectories import Bank, Sampler

    cfg = tiny_config(prompt_learning_rate=0.01, lambda_=0.3, sites="down-mid-up", batch_size=1).resolved()
    training = _Training(cfg, None, tiny_pipe, None, lambda: None, None)
    training.precision, training.model_hash, training.method, training.base = "fp32", "", kpop, None
    training._prepare()
    batches = BankBatches(tiny_pipe, cfg, Bank(tiny_pipe, Sampler(3, 3.0), "digest", None))
    batch = batches.draw(1)
    p = training.prompts[0].tensors["p"].detach().clone().requires_grad_()
    unet = copy.deepcopy(tiny_pipe.unet)  # theta' is theta at the first step
    cross = {name: weight for name, weight in unet.named_parameters() if ".attn2." in name}
    losses = training._step(batches, 1)

    def says(given, with_p):
        text = torch.cat([given.text, p.expand(len(given.z), -1, -1)], 1) if with_p else given.text
        return unet(given.z, given.t, encoder_hidden_states=text).sample

    def mse(given, with_p):
        return (says(given, with_p) - given.target).square().mean()

    l_e = mse(batch.concept, True)
    assert losses["l_transfer"] == pytest.approx(float(l_e.detach()), rel=1e-4)
    (gradient,) = torch.autograd.grad(l_e + cfg.key_retain_weight * mse(batch.retain, True), [p])
    with torch.no_grad():
        p -= 0.01 * gradient / (gradient.abs() + 1e-8)  # Adam's first step
    unsure = gradient.abs() < 1e-7  # sign of a rounding error
    torch.testing.assert_close(
        training.prompts[0].tensors["p"].detach()[~unsure], p.detach()[~unsure], atol=1e-4, rtol=0
    )
    with torch.no_grad():
        p.copy_(training.prompts[0].tensors["p"])
    for weight in cross.values():
        weight.requires_grad_()
    l1, l2, kept = mse(batch.erase, False), mse(batch.concept, True), mse(batch.retain, False)
    for name, value in (("l_erase", l1), ("l_recover", l2)):
        assert losses[name] == pytest.approx(float(value.detach()), rel=1e-4)
    gradients = torch.autograd.grad(l1 + cfg.lambda_ * l2 + cfg.retain_weight * kept, list(cross.values()))
    for (name, weight), gradient in zip(cross.items(), gradients, strict=True):
        expected = weight - cfg.learning_rate * gradient / (gradient.abs() + 1e-8)
        sure = gradient.abs() > 1e-6
        torch.testing.assert_close(training.delta.tensors[name][sure], expected[sure], atol=3e-5, rtol=0)
    for name, weight in tiny_pipe.unet.named_parameters():
        assert torch.equal(weight, dict(unet.named_parameters())[name])  # theta has not moved


def test_a_radius_bounds_the_step():
    weight = torch.nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    descend(optimizer, {"w": weight}, (weight * torch.tensor([3.0, 4.0, 0.0, 0.0])).sum(), 1.0)
    torch.testing.assert_close(weight.detach(), torch.tensor([-0.6, -0.8, 0.0, 0.0]))
    descend(optimizer, {"w": weight}, (weight * torch.tensor([0.3, 0.0, 0.0, 0.0])).sum(), 1.0)
    torch.testing.assert_close(weight.detach(), torch.tensor([-0.9, -0.8, 0.0, 0.0]))


def test_start_of_p_is_the_seeds(tiny_pipe):
    from kpop.hidden_prompt import HiddenPrompt

    made = [HiddenPrompt.create("x", 77, 8, 2, 0.5, torch.Generator().manual_seed(s)).key for s in (1, 1, 2)]
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])
    assert 0.45 < float(made[0].std()) < 0.55 and models.encode(tiny_pipe, [""]).shape == (1, 77, 32)
