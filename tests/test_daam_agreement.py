"""Our maps against the real daam package, where it works: no hidden prompt, 64x64 latents, no mid block."""

import sys

import pytest
import torch
from attribution_pipelines import random_pipeline

from kpop import GenerationConfig, ModelError, attribute, load_pipeline
from kpop.attribution_summary import looking_heads

PROMPT = "a church on a blue background with dogs"
CONFIG = GenerationConfig(steps=2, guidance_scale=5.0, scheduler="model", batch_size=1)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    """A Stable-Diffusion-shaped folder of random weights, loaded by path as a user would."""
    folder = tmp_path_factory.mktemp("sd-shaped")
    random_pipeline(sd_shaped=True).save_pretrained(folder, safe_serialization=True)
    return load_pipeline(str(folder), device="cpu")


@pytest.fixture(scope="module")
def ours(pipe):
    return attribute(pipe, PROMPT, seeds=3, config=CONFIG)


@pytest.fixture(scope="module")
def theirs(pipe, ours, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))  # daam makes a folder there
        daam = pytest.importorskip("daam", reason="pip install --no-deps daam==0.2.0")
        latents = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(3))
        with torch.no_grad(), daam.trace(pipe) as tracer:
            pipe(PROMPT, latents=latents, num_inference_steps=2, guidance_scale=5.0)
    return tracer


@pytest.mark.parametrize("word", ["church", "a church", "dogs", "blue background"])
def test_every_head_equals_daam(ours, theirs, word):
    seen = ours.select(layer=["down", "up"])  # daam's tracer never records the middle block
    for head in range(8):
        expected = theirs.compute_global_heat_map(head_idx=head).compute_word_heat_map(word).heatmap
        got = seen[word].heads[head] * seen.steps  # daam sums over steps
        assert expected.std() > 1e-3
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_one_layer_equals_daam(ours, theirs):
    names = theirs.layer_names
    assert names[0] == "up-attn-0" and len(names) == 9
    expected = theirs.compute_global_heat_map(layer_idx=0).compute_word_heat_map("church").heatmap
    seen = ours.select(layer="up 1.0")
    torch.testing.assert_close(seen["church"].all * seen.steps, expected, atol=1e-4, rtol=0)


def test_to_daam_is_the_map_daam_would_make(ours, theirs):
    expected = theirs.compute_global_heat_map()
    got = ours.to_daam()
    assert type(got) is type(expected)
    torch.testing.assert_close(got.heat_maps, expected.heat_maps, atol=1e-4, rtol=0)
    torch.testing.assert_close(
        ours.to_daam(head=2).compute_word_heat_map("dogs").heatmap,
        theirs.compute_global_heat_map(head_idx=2).compute_word_heat_map("dogs").heatmap, atol=1e-4, rtol=0,
    )  # fmt: skip


def test_layers_of_random_weights_look_at_no_place(ours):
    for word in ours.words:
        looking = looking_heads(ours, word)
        assert len(looking) == 10 * 8 and looking.sum() <= 8  # 80 were uneven, and counted, before


def test_without_daam_a_sentence_says_what_to_install(ours, monkeypatch):
    monkeypatch.setitem(sys.modules, "daam", None)
    with pytest.raises(ModelError, match="pip install --no-deps daam==0.2.0"):
        ours.to_daam()
    assert ours["church"].heads.shape == (8, 64, 64)
