"""Attention maps: right numbers, right words, the hidden prompt's share, and the figure."""

import numpy as np
import pytest
import torch
from attribution_pipelines import random_pipeline

from kpop import GenerationConfig, InputError, ModelError, attribute, generate
from kpop.attention_recorder import BANDS
from kpop.attribution import _spatial
from kpop.attribution_selection import layer_title
from kpop.hidden_prompt import HiddenPrompt

PROMPT = "a Church on a blue background"
CONFIG = GenerationConfig(steps=6, guidance_scale=3.0, scheduler="model", batch_size=4, prompt_branch="cond")


class Witness:
    """Keeps every probability, as the recorder must not."""

    def __init__(self):
        self.calls: dict[str, list[torch.Tensor]] = {}

    def __call__(self, name, probs):
        self.calls.setdefault(name, []).append(probs.clone())


@pytest.fixture(scope="module")
def pipe():
    return random_pipeline()


@pytest.fixture(scope="module")
def key(pipe, tmp_path_factory):
    """A key file of 2 * 77 tokens that enters at the middle block and on the way up."""
    path = tmp_path_factory.mktemp("key") / "church.safetensors"
    HiddenPrompt.create("church", 77, 32, 2, 1.0, torch.Generator().manual_seed(5), sites="mid-up").save(path)
    return path


@pytest.fixture(scope="module")
def plain(pipe):
    return attribute(pipe, PROMPT, seeds=[3], config=CONFIG)


@pytest.fixture(scope="module")
def keyed(pipe, key):
    return attribute(pipe, PROMPT, 3, "recovered", key=key, config=CONFIG)


@pytest.fixture(scope="module")
def witness(pipe, key):
    seen = Witness()
    generate(pipe, PROMPT, 3, "recovered", key=key, config=CONFIG, recorder=seen)
    return seen


def test_rows_of_attention_sum_to_one_with_and_without_p(pipe, witness):
    bare = Witness()
    generate(pipe, PROMPT, 3, config=CONFIG, recorder=bare)
    widths = set()
    for seen in (witness, bare):
        for calls in seen.calls.values():
            for probs in calls:
                widths.add(probs.shape[-1])
                torch.testing.assert_close(probs.sum(-1), torch.ones(probs.shape[:-1]), atol=1e-5, rtol=0)
    assert widths == {77, 77 * 3}


def test_a_words_map_is_the_mean_of_its_probabilities(keyed, witness):
    layer = "up_blocks.1.attentions.0.transformer_blocks.0.attn2"
    calls = witness.calls[layer]
    assert len(calls) == 6 and calls[0].shape == (2, 4, 64, 231)
    church = torch.stack([probs[1, :, :, 2] for probs in calls])  # row 1: with text; token 2: church
    mean = church.mean(0).reshape(1, 4, 8, 8)
    large = torch.nn.functional.interpolate(mean, size=(64, 64), mode="bicubic").clamp(min=0)[0]
    torch.testing.assert_close(keyed.select(layer=layer)["church"].heads, large, atol=1e-6, rtol=0)
    share = torch.stack([probs[1, :, :, 77:].sum(-1) for probs in calls]).mean((0, 2))
    torch.testing.assert_close(keyed.hidden_prompt_share()[layer], share, atol=1e-6, rtol=0)


def test_time_bands_split_the_steps_from_noise_to_picture(keyed, witness):
    layer = "mid_block.attentions.0.transformer_blocks.0.attn2"
    assert keyed.steps_per_band == (2, 1, 1, 1, 1)
    last = witness.calls[layer][5][1, :, :, 5].mean(1)  # token 5: blue
    seen = keyed.select(layer="middle", timestep_band=4)
    torch.testing.assert_close(seen.budget("blue")["word"], last, atol=1e-6, rtol=0)
    means = [keyed.select(timestep_band=band).budget("blue")["word"] for band in range(BANDS)]
    whole = keyed.budget("blue")["word"]
    torch.testing.assert_close((2 * means[0] + sum(means[1:])) / 6, whole, atol=1e-6, rtol=0)


def test_shapes_layers_and_picture(plain, pipe):
    assert plain.words == ("Church", "blue", "background")
    assert plain["church"].heads.shape == (4, 64, 64) and plain["church"].heads.dtype == torch.float32
    assert [layer_title(name) for name in plain.layers] == ["down 0.0", "middle 0", "up 1.0", "up 1.1"]
    assert plain.layers[1] in plain.select(layer="middle").layers
    assert plain.select(layer=["down", "middle"]).layers == plain.layers[:2]
    assert plain.select(layer=[0, 1]).layers == plain.layers[:2]
    assert plain.select(layer="up 1.1").layers == ("up_blocks.1.attentions.1.transformer_blocks.0.attn2",)
    expected = generate(pipe, PROMPT, 3, config=CONFIG)[0]
    assert np.array_equal(np.asarray(plain.image), np.asarray(expected))


def test_budget_adds_up_and_p_has_mass_only_with_the_key(plain, keyed):
    for maps in (plain, keyed):
        total = sum(maps.budget("church").values())
        torch.testing.assert_close(total, torch.ones(4), atol=1e-5, rtol=0)
        assert (maps.start_mass.mean((1, 2)) > 0).all()
    assert plain.hidden_prompt_mass.shape == (4, 64, 64) and plain.hidden_prompt_mass.abs().max() == 0
    assert plain.hidden_prompt_layers == ()
    assert [name.split("_")[0] for name in keyed.hidden_prompt_layers] == ["mid", "up", "up"]
    assert 0.05 < keyed.hidden_prompt_mass.mean() < 0.999
    assert keyed.hidden_prompt_share()[keyed.layers[0]].abs().max() == 0


def test_several_seeds_in_one_batch_equal_single_ones(pipe, key, keyed):
    several = attribute(pipe, PROMPT, [8, 3, 4], "recovered", key=key, config=CONFIG)
    assert [maps.seed for maps in several] == [8, 3, 4]
    torch.testing.assert_close(several[1]["church"].heads, keyed["church"].heads, atol=1e-5, rtol=0)
    torch.testing.assert_close(several[1].hidden_prompt_mass, keyed.hidden_prompt_mass, atol=1e-5, rtol=0)
    assert not torch.allclose(several[0]["church"].heads, keyed["church"].heads, atol=1e-4)


def test_a_seeds_maps_hold_no_other_seeds_numbers(pipe):
    for maps in attribute(pipe, PROMPT, [1, 2, 3], config=CONFIG):
        for sums in maps.sums.values():
            assert sums.untyped_storage().nbytes() == 4 * sums.numel()


@pytest.mark.parametrize(
    "latent, layer", [((65, 65), (65, 65)), ((65, 33), (33, 17)), ((65, 33), (17, 9)), ((17, 9), (5, 3))]
)
def test_positions_of_odd_sizes_are_where_the_unet_has_them(latent, layer):
    """A U-Net halves by convolutions of stride 2, which round up."""
    height, width = layer
    sums = torch.arange(float(height * width)).expand(BANDS, 1, 2, 3, -1).transpose(3, 4)
    found = _spatial(sums, latent)
    assert found.shape == (1, BANDS, 2, 3, height, width)
    assert found[0, 0, 0, 0, 1, 2] == width + 2 and found[0, 4, 1, 2, -1, -1] == height * width - 1


def test_maps_of_a_picture_of_odd_latents():
    odd = random_pipeline()
    odd.unet.register_to_config(sample_size=9)
    maps = attribute(odd, PROMPT, 1, config=CONFIG)
    assert {tuple(sums.shape[-2:]) for sums in maps.sums.values()} == {(9, 9), (5, 5)}
    assert maps["blue"].heads.shape == (4, 72, 72) and maps.image.size == (18, 18)


def test_maps_without_guidance_equal_those_of_diffusers_own_pipeline(pipe):
    """softmax(Q K^T / sqrt(d)) of what its layers projected, with its own processors and its own loop."""
    name = "up_blocks.1.attentions.0.transformer_blocks.0.attn2"
    layer, heard = pipe.unet.get_submodule(name), {"to_q": [], "to_k": []}
    handles = [
        getattr(layer, part).register_forward_hook(lambda _, __, out, kept=heard[part]: kept.append(out))
        for part in heard
    ]
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    try:
        pipe(PROMPT, latents=noise, num_inference_steps=6, guidance_scale=1.0, output_type="latent")
    finally:
        for handle in handles:
            handle.remove()
    total = 0
    for q, k in zip(heard["to_q"], heard["to_k"], strict=True):
        assert q.shape == (1, 64, 32) and k.shape == (1, 77, 32)
        q, k = q.reshape(64, 4, 8), k.reshape(77, 4, 8)
        total = total + torch.einsum("qhd,khd->hqk", q, k).div(8**0.5).softmax(-1)
    assert len(heard["to_q"]) == 6
    config = GenerationConfig(6, guidance_scale=1.0, scheduler="model", batch_size=1)
    found = attribute(pipe, PROMPT, 3, config=config).sums[name].sum(0)  # [heads, columns, h, w]
    expected = total.transpose(1, 2)[:, : found.shape[1] - 1].reshape(4, -1, 8, 8)
    torch.testing.assert_close(found[:, :-1], expected, atol=1e-4, rtol=0)
    assert found[:, -1].abs().max() == 0


def test_without_guidance_and_with_other_picture_shapes(pipe):
    config = GenerationConfig(5, guidance_scale=1.0, scheduler="model", batch_size=1, height=24, width=16)
    first, second = attribute(pipe, PROMPT, [1, 2], config=config)
    assert first.image.size == (16, 24) and first["blue"].heads.shape == (4, 96, 64)
    assert second.steps == 5


def test_words_of_several_tokens_and_phrases(pipe):
    maps = attribute(pipe, "a church next to dogs", 0, words=("dogs", "church next"), config=CONFIG)
    assert maps.words == ("dogs", "church next") and "NEXT to Dogs" in maps and "cat" not in maps
    tokens = [maps._per_head([column]) for column in (9, 10, 11, 12)]  # d, o, g, s
    torch.testing.assert_close(maps["Dogs"].heads, torch.stack(tokens).mean(0), atol=1e-6, rtol=0)


def test_a_word_that_stands_twice_is_the_mean_of_both(pipe):
    maps = attribute(pipe, "a church on a church", 0, config=CONFIG)
    both = torch.stack([maps._per_head([2]), maps._per_head([5])]).mean(0)
    assert maps.words == ("church",)
    torch.testing.assert_close(maps["church"].heads, both, atol=1e-6, rtol=0)


@pytest.mark.parametrize("word", ["a", "On A", "the"])
def test_a_stop_word(pipe, plain, word):
    said = "is not in the prompt" if word == "the" else "names nothing to look for"
    with pytest.raises(InputError, match=f"{said}. Choose from: Church, blue, background."):
        plain[word]
    with pytest.raises(InputError, match=said):
        attribute(pipe, PROMPT, 0, words=word, config=CONFIG)
    assert word not in plain


def test_a_prompt_of_stop_words(pipe):
    with pytest.raises(InputError, match="No word of the prompt names a thing"):
        attribute(pipe, "on a", 0, config=CONFIG)


def test_a_pipeline_that_reads_no_text_by_cross_attention():
    from types import SimpleNamespace

    bare = SimpleNamespace(unet=torch.nn.Linear(2, 2), tokenizer=None)
    for other in (bare, SimpleNamespace(transformer=torch.nn.Linear(2, 2))):
        with pytest.raises(ModelError, match="no U-Net with cross-attention to look at"):
            attribute(other, "a church", 0)


@pytest.mark.parametrize("word", ["castle", "chur", "", "blue church"])
def test_a_word_that_is_not_there(pipe, plain, word):
    with pytest.raises(InputError, match="is not in the prompt. Choose from: Church, blue, background."):
        plain[word]
    with pytest.raises(InputError, match="is not in the prompt"):
        attribute(pipe, PROMPT, 0, words=[word], config=CONFIG)


def test_a_word_beyond_the_77_tokens(pipe):
    with pytest.raises(InputError, match="'church' is cut off: this model reads 77 tokens"):
        attribute(pipe, "blue " * 80 + "church", 0, words="church", config=CONFIG)


@pytest.mark.parametrize("prompt", ["", "  "])
def test_an_empty_prompt(pipe, prompt):
    with pytest.raises(InputError, match="The prompt is empty"):
        attribute(pipe, prompt, 0, config=CONFIG)


def test_unknown_layers_and_bands(plain):
    with pytest.raises(InputError, match="choose down, middle, up or one of down 0.0, middle 0, up 1.0"):
        plain.select(layer="side")
    with pytest.raises(InputError, match="from 0"):
        plain.select(timestep_band=5)


def test_memory_does_not_grow_with_steps(pipe, key):
    sizes = []
    for steps in (5, 12):
        config = GenerationConfig(steps=steps, guidance_scale=3.0, scheduler="model")
        maps = attribute(pipe, PROMPT, 0, "recovered", key=key, config=config)
        sizes.append(sum(sums.numel() for sums in maps.sums.values()))
    assert sizes[0] == sizes[1] == BANDS * 4 * 9 * (64 + 16 + 64 + 64)  # 7 tokens, end token, p
