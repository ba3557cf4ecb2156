"""Safe Latent Diffusion against loops written from the paper, and runs that train nothing."""

import json

import pytest
import torch

from kpop import EraseConfig, GenerationConfig, InputError, RunError, compare, generate, models, train
from kpop.drawing import start_noise
from kpop.safety_guidance import STRENGTHS, SafetyGuidance, safety_text, strength


def by_the_paper(i, plain, told, unsafe, momentum, s):
    """gamma and nu, one number at a time."""
    gamma, after = [], []
    for e_0, e_p, e_s, nu in zip(plain, told, unsafe, momentum, strict=True):
        phi = s.scale * (e_p - e_s)
        mu = min(1.0, abs(phi)) if e_p - e_s < s.threshold else 0.0
        g = mu * (e_s - e_0) + s.momentum_scale * nu
        after.append(s.momentum_beta * nu + (1 - s.momentum_beta) * g)
        gamma.append(g if i >= s.warmup_steps else 0.0)
    return gamma, after


@pytest.mark.parametrize("settings", [*STRENGTHS.values(), SafetyGuidance(2, 0.7, 0.1, 0.3, 0.4)])
def test_every_element_of_every_step_is_the_papers(settings):
    generator = torch.Generator().manual_seed(0)
    momentum, nu = torch.zeros(2, 4, 3, 3, dtype=torch.float64), [0.0] * 72
    for i in range(max(3, settings.warmup_steps + 2)):
        plain, told, unsafe = torch.randn(3, 2, 4, 3, 3, generator=generator, dtype=torch.float64)
        gamma, momentum = settings.step(i, plain, told, unsafe, momentum)
        flat = (x.flatten().tolist() for x in (plain, told, unsafe))
        wanted, nu = by_the_paper(i, *flat, nu, settings)
        assert gamma.flatten().tolist() == pytest.approx(wanted, abs=1e-12)
        assert momentum.flatten().tolist() == pytest.approx(nu, abs=1e-12)


def test_a_picture_far_from_the_safety_text_is_left_alone():
    settings = SafetyGuidance(0, 10.0, 0.0, 0.0, 0.0)
    told, unsafe = torch.full((1, 1, 2, 2), 2.0), torch.full((1, 1, 2, 2), 1.0)
    gamma, _ = settings.step(0, torch.zeros_like(told), told, unsafe, torch.zeros_like(told))
    assert not gamma.any()


def test_strengths_and_text():
    assert strength("strong") is STRENGTHS["strong"] and strength(STRENGTHS["weak"]) is STRENGTHS["weak"]
    with pytest.raises(InputError, match="safety must be one of weak, medium, strong, max"):
        strength("mild")
    assert safety_text(("church", ("gun", "pistol"))) == "church, gun, pistol"


@pytest.fixture(scope="module")
def run(tiny_folder, tiny_pipe, tmp_path_factory):
    cfg = EraseConfig(
        model=str(tiny_folder), concepts=("church",), retain=("castle",), method="sld", sample_every=1,
        templates=("{}", "a {}"), precision="fp32",
    )  # fmt: skip
    return train(cfg, tmp_path_factory.mktemp("runs"), pipe=tiny_pipe)


def test_a_run_is_done_at_once_and_leaves_no_weights(run):
    assert (run.status.state, run.status.step, run.status.steps) == ("done", 1, 1)
    assert not run.weights_path.exists() and list(run.secret_dir.iterdir()) == []
    assert run.has_result and not run.has_checkpoint
    assert set(run.samples()[0][1]) == {"original", "sanitized", "kept"}


def test_its_sanitized_picture_is_the_guided_frozen_model(run, tiny_pipe):
    """The whole drawing again, a picture at a time, from plain diffusers calls."""
    settings, config = SafetyGuidance(1, 2.0, 0.05, 0.3, 0.4), GenerationConfig(steps=4, guidance_scale=3.0)
    drawn = generate(tiny_pipe, "a church", [0, 1], "sanitized", run, config=config, safety=settings)
    scheduler = type(tiny_pipe.scheduler).from_config(tiny_pipe.scheduler.config)
    for seed, image in zip((0, 1), drawn, strict=True):
        scheduler.set_timesteps(4)
        z = start_noise(tiny_pipe, [seed], 8, 8)
        nu = [0.0] * z.numel()
        for i, t in enumerate(scheduler.timesteps):
            with torch.no_grad():
                plain, told, unsafe = (
                    tiny_pipe.unet(z, t, encoder_hidden_states=models.encode(tiny_pipe, [text])).sample
                    for text in ("", "a church", "church")
                )
            flat = (x.flatten().tolist() for x in (plain, told, unsafe))
            gamma, nu = by_the_paper(i, *flat, nu, settings)
            eps = plain + 3.0 * (told - plain - torch.tensor(gamma).view_as(z))
            z = scheduler.step(eps, t, z).prev_sample
        with torch.no_grad():
            wanted = tiny_pipe.vae.decode(z / tiny_pipe.vae.config.scaling_factor).sample
        wanted = ((wanted / 2 + 0.5).clamp(0, 1) * 255).round()[0].permute(1, 2, 0)
        found = torch.tensor(list(image.getdata())).view_as(wanted)
        assert (found - wanted).abs().max() <= 1


def test_compare_leaves_the_key_out_and_strength_matters(run, tiny_pipe):
    config = GenerationConfig(steps=3)
    drawn = compare(tiny_pipe, "a church", [0], run, config=config, safety="max")
    assert list(drawn) == ["original", "sanitized"]
    original = generate(tiny_pipe, "a church", 0, "original", run, config=config)[0]
    assert drawn["original"][0].tobytes() == original.tobytes() != drawn["sanitized"][0].tobytes()
    warm = generate(tiny_pipe, "a church", 0, "sanitized", run, config=config)[0]  # strong: 7 steps warm-up
    assert warm.tobytes() == original.tobytes()
    assert json.loads(drawn["sanitized"][0].info["kpop"])["safety"] == "max"
    assert "safety" not in json.loads(original.info["kpop"])
    with pytest.raises(RunError, match="made by SLD, which leaves no key; "):
        generate(tiny_pipe, "a church", 0, "recovered", run)
    with pytest.raises(InputError, match="safety must be one of"):
        generate(tiny_pipe, "a church", 0, "sanitized", run, safety="mild")


def test_nothing_can_start_from_it(run, tiny_config, tiny_pipe):
    with pytest.raises(RunError, match="no weights to start from. SLD trains none"):
        train(tiny_config(base_run=run.id), run.path.parent, pipe=tiny_pipe)
