"""Pictures: same noise for every variant, keys, row masks, what stands in their metadata, cancelling."""

import json
from copy import copy

import numpy as np
import pytest
import torch

from kpop import EraseConfig, GenerationConfig, InputError, RunError, compare, generate, models, train
from kpop.drawing import make_scheduler
from kpop.hidden_prompt import HiddenPrompt
from kpop.weights import WeightDelta

CONFIG = GenerationConfig(steps=3)


@pytest.fixture(scope="module")
def run(tiny_config, tiny_pipe, tmp_path_factory):
    """A run of two concepts whose weights and keys were moved far, so that variants differ visibly."""
    folder = tmp_path_factory.mktemp("runs")
    cfg = tiny_config(concepts=("church", ("castle", "fort")), retain=(), steps=1, prompt_init_std=2.0)
    made = train(cfg, folder, pipe=tiny_pipe)
    delta = WeightDelta.load(made.weights_path)
    WeightDelta({name: tensor * 1.5 for name, tensor in delta.tensors.items()}, delta.model_hash).save(
        made.weights_path
    )
    return made


def arrays(images):
    return np.stack([np.asarray(image) for image in images]).astype(int)


def alike(one, other):
    return np.abs(arrays(one) - arrays(other)).max() <= 1


def test_the_original_is_what_diffusers_draws(tiny_pipe):
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(7))
    expected = tiny_pipe("a church", latents=noise, num_inference_steps=3, guidance_scale=4.0).images
    assert alike(
        generate(tiny_pipe, "a church", 7, config=GenerationConfig(steps=3, guidance_scale=4.0)), expected
    )


def test_pictures_come_prompt_by_prompt_and_do_not_depend_on_their_batch(tiny_pipe):
    together = generate(tiny_pipe, ["a church", "a castle"], [0, 1], config=CONFIG)
    assert [json.loads(image.info["kpop"])["prompt"] for image in together] == ["a church"] * 2 + [
        "a castle"
    ] * 2
    small = GenerationConfig(steps=3, batch_size=1)
    alone = [
        generate(tiny_pipe, prompt, seed, config=small)[0]
        for prompt in ("a church", "a castle")
        for seed in (0, 1)
    ]
    assert alike(together, alone) and not alike(together[:1], together[1:2])


def test_variants_differ_and_no_key_is_sanitized(tiny_pipe, run):
    sanitized = generate(tiny_pipe, "a church", [0, 1], "sanitized", run, config=CONFIG)
    recovered = generate(tiny_pipe, "a church", [0, 1], "recovered", run, config=CONFIG)
    assert not alike(sanitized, generate(tiny_pipe, "a church", [0, 1], config=CONFIG))
    assert not alike(sanitized, recovered)
    assert alike(
        sanitized, generate(tiny_pipe, "a church", [0, 1], "recovered", run, key=None, config=CONFIG)
    )


@pytest.mark.parametrize("branch", ["cond", "both"])
def test_comparing_equals_drawing_each_alone(tiny_pipe, run, branch):
    config = GenerationConfig(steps=3, prompt_branch=branch, batch_size=3)
    prompts, seeds = ["a church", "a castle"], [0, 1]
    found = compare(tiny_pipe, prompts, seeds, run, config=config)
    assert list(found) == ["original", "sanitized", "recovered"]
    for variant, images in found.items():
        assert alike(images, generate(tiny_pipe, prompts, seeds, variant, run, config=config))


def test_the_branches_of_guidance_that_see_p_matter(tiny_pipe, run):
    cond, both = (
        generate(
            tiny_pipe, "a church", 0, "recovered", run, config=GenerationConfig(steps=3, prompt_branch=b)
        )
        for b in ("cond", "both")
    )
    assert not alike(cond, both)


def test_own_key_is_that_of_the_concept_the_prompt_names(tiny_pipe, run):
    def draw(prompt, key):
        return generate(tiny_pipe, prompt, 0, "recovered", run, key=key, config=CONFIG)

    assert alike(draw("a church", "own"), draw("a church", "church"))
    assert alike(draw("a fort", "own"), draw("a fort", "castle"))  # a synonym names it too
    assert not alike(draw("a church", "church"), draw("a church", "castle"))
    assert alike(draw("a background", "own"), draw("a background", ["church", "castle"]))
    assert alike(draw("a church", "church"), draw("a church", run.key_path("church")))
    assert alike(draw("a church", "church"), draw("a church", str(run.key_path("church"))))


def test_a_key_file_works_without_a_run(tiny_pipe, run):
    """As with a released folder, whose weights are theta' already."""
    delta = WeightDelta.load(run.weights_path).to(torch.device("cpu"), torch.float32)
    with delta.applied(tiny_pipe.unet):
        released = generate(tiny_pipe, "a church", 0, "recovered", key=run.key_path("church"), config=CONFIG)
    assert alike(released, generate(tiny_pipe, "a church", 0, "recovered", run, config=CONFIG))


def test_metadata_names_everything_but_paths_and_keys(tiny_pipe, run, tiny_folder):
    image = generate(tiny_pipe, "a church", 3, "recovered", run, key=run.key_path("church"), config=CONFIG)[0]
    info = json.loads(image.info["kpop"])
    assert (info["prompt"], info["seed"], info["variant"], info["run"]) == (
        "a church",
        3,
        "recovered",
        run.id,
    )
    assert info["concepts"] == ["church", "castle"] and info["model_hash"] == models.model_hash(tiny_pipe)
    assert GenerationConfig.from_dict(info["config"]).steps == 3
    assert info["model"] == "tiny" and "/" not in image.info["kpop"]


def test_steps_are_told_and_raising_cancels(tiny_pipe, run):
    told = []
    config = GenerationConfig(steps=3, batch_size=2)
    generate(tiny_pipe, "a church", [0, 1, 2], config=config, on_step=lambda i, n: told.append((i, n)))
    assert told == [(i, 6) for i in range(1, 7)]
    told.clear()
    compare(tiny_pipe, "a church", [0, 1], run, config=config, on_step=lambda i, n: told.append((i, n)))
    assert told == [(i, 9) for i in range(1, 10)]

    def cancel(i, n):
        raise InterruptedError

    before = dict(tiny_pipe.unet.named_parameters())
    with pytest.raises(InterruptedError):
        generate(tiny_pipe, "a church", 0, "sanitized", run, config=config, on_step=cancel)
    assert all(weight is before[name] for name, weight in tiny_pipe.unet.named_parameters())


@pytest.mark.parametrize("kind", ["PNDMScheduler", "EulerDiscreteScheduler", "DDIMScheduler"])
def test_ddim_is_stable_diffusions_whatever_scheduler_a_folder_came_with(tiny_pipe, kind):
    import diffusers

    plain = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    other = copy(tiny_pipe)
    other.scheduler = getattr(diffusers, kind)(**plain)  # as saved by who named nothing else
    made = make_scheduler(other, "ddim", 4).config
    if kind != "DDIMScheduler":  # whose own word counts
        assert (made.clip_sample, made.thresholding, made.set_alpha_to_one) == (False, False, False)
    else:
        assert made.clip_sample is other.scheduler.config.clip_sample


@pytest.mark.parametrize("scheduler", ["model", "ddim", "dpm", "euler", "pndm"])
def test_every_scheduler_draws(tiny_pipe, scheduler):
    config = GenerationConfig(steps=4, scheduler=scheduler, height=32, width=48)
    assert generate(tiny_pipe, "a church", 0, config=config)[0].size == (48, 32)


def test_negative_prompt_and_no_guidance(tiny_pipe):
    plain = generate(tiny_pipe, "a church", 0, config=CONFIG)
    assert not alike(
        plain, generate(tiny_pipe, "a church", 0, config=GenerationConfig(steps=3, negative_prompt="castle"))
    )
    assert not alike(
        plain, generate(tiny_pipe, "a church", 0, config=GenerationConfig(steps=3, guidance_scale=1))
    )


def test_what_cannot_be_drawn_is_refused_in_words(tiny_pipe, run, tmp_path):
    for arguments, error, told in (
        ((tiny_pipe, [], 0), InputError, "no prompt"),
        ((tiny_pipe, "a church", []), InputError, "no seed"),
        ((tiny_pipe, "a church", -1), InputError, "seed is a whole number"),
        ((tiny_pipe, "a church", 0, "erased"), InputError, "variant must be"),
        ((tiny_pipe, "a church", 0, "sanitized"), InputError, "Name the run"),
        ((tiny_pipe, "a church", 0, "recovered", run, "mosque"), InputError, "no key for 'mosque'"),
        ((tiny_pipe, "a church", 0, "recovered", run, tmp_path / "x.safetensors"), InputError, "no key file"),
        ((tiny_pipe, "a church", 0, "sanitized", "no-such-run"), RunError, "no run"),
    ):
        with pytest.raises(error, match=told):
            generate(*arguments, config=CONFIG)


def test_weights_of_another_model_are_refused(run, tmp_path):
    from attribution_pipelines import random_pipeline

    with pytest.raises(InputError, match="another model"):
        generate(random_pipeline(seed=9), "a church", 0, "sanitized", run, config=CONFIG)


def test_a_key_of_another_model_is_refused(tiny_pipe, run, tmp_path):
    key = HiddenPrompt.load(run.key_path("church"))
    HiddenPrompt("church", key.key, key.key, model_hash="0" * 64).save(tmp_path / "key.safetensors")
    with pytest.raises(InputError, match="belongs to another model"):
        generate(tiny_pipe, "a church", 0, "recovered", run, key=tmp_path / "key.safetensors", config=CONFIG)


def test_a_concept_that_looks_like_a_path_is_a_name(tiny_config, tiny_pipe, tmp_path):
    cfg = tiny_config(concepts=("red/church", "castle"), retain=(), steps=1, prompt_init_std=2.0)
    run = train(cfg, tmp_path, pipe=tiny_pipe)
    (image,) = generate(tiny_pipe, "a house", 0, "recovered", run, key="Red/Church", config=CONFIG)
    assert json.loads(image.info["kpop"])["key"] == "Red/Church"
    own = run.key_path("red/church")
    assert alike([image], generate(tiny_pipe, "a house", 0, "recovered", run, key=own, config=CONFIG))
    with pytest.raises(InputError, match="no key file 'mosque'"):
        generate(tiny_pipe, "a house", 0, "recovered", run, key="red/mosque", config=CONFIG)


def test_an_additive_key_of_several_is_used_where_the_prompt_names_it(tiny_config, tiny_pipe, tmp_path):
    cfg = tiny_config(
        concepts=("church", "castle"), retain=(), steps=1, mechanism="additive", prompt_init_std=2.0
    )
    run = train(cfg, tmp_path, pipe=tiny_pipe)
    named = generate(tiny_pipe, "a church", 0, "recovered", run, config=CONFIG)
    assert not alike(named, generate(tiny_pipe, "a church", 0, "sanitized", run, config=CONFIG))
    assert HiddenPrompt.load(run.key_path("castle")).key.shape == (1, 77, 32)
    with pytest.raises(InputError, match="choose one key"):
        generate(tiny_pipe, "a church", 0, "recovered", run, key=["church", "castle"], config=CONFIG)


def test_the_public_names_are_there():
    import kpop

    assert kpop.EraseConfig is EraseConfig and {"train", "generate", "compare", "attribute", "Run"} <= set(
        dir(kpop)
    )
    with pytest.raises(AttributeError):
        _ = kpop.nonsense
