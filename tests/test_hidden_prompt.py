"""The attention processor: identities of paper section 4.3, row mask, recorder, sites, key files."""

import os

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from kpop import InputError, models
from kpop.hidden_prompt import HiddenPrompt, combine
from kpop.prompt_attention import attention_prompt, find_cross_attention, site_names


@pytest.fixture(scope="module")
def scene(tiny_pipe):
    """z [3, 4, 8, 8], a timestep, text states [3, 77, 32]."""
    z = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return z, torch.tensor(500), models.encode(tiny_pipe, ["a church", "a castle", ""])


def predict(pipe, scene, prompt=None, **how):
    z, t, text = scene
    with torch.no_grad(), attention_prompt(pipe.unet, prompt, **how):
        return pipe.unet(z, t, encoder_hidden_states=text).sample


@pytest.fixture(scope="module")
def plain(tiny_pipe, scene):
    z, t, text = scene
    with torch.no_grad():
        return tiny_pipe.unet(z, t, encoder_hidden_states=text).sample


def some_prompt(blocks=1, seed=0):
    return torch.randn(1, 77 * blocks, 32, generator=torch.Generator().manual_seed(seed))


def test_without_p_it_is_the_plain_processor(tiny_pipe, scene, plain):
    torch.testing.assert_close(predict(tiny_pipe, scene), plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sites", ["mid", "mid-up", "down-mid-up"])
@pytest.mark.parametrize("k", [1, 3])
def test_concat_of_the_text_itself_changes_nothing(tiny_pipe, scene, plain, sites, k):
    found = predict(tiny_pipe, scene, torch.cat([scene[2]] * k, 1), sites=sites)
    torch.testing.assert_close(found, plain, atol=1e-5, rtol=0)


def test_adding_zero_changes_nothing(tiny_pipe, scene, plain):
    found = predict(tiny_pipe, scene, torch.zeros(1, 77, 32), mechanism="additive")
    torch.testing.assert_close(found, plain, atol=1e-5, rtol=0)


def test_adding_p_is_another_text(tiny_pipe, scene):
    z, t, text = scene
    p = some_prompt()
    with torch.no_grad():
        expected = tiny_pipe.unet(z, t, encoder_hidden_states=text + p).sample
    torch.testing.assert_close(
        predict(tiny_pipe, scene, p, mechanism="additive"), expected, atol=1e-5, rtol=0
    )


def test_concat_is_a_longer_text_at_all_sites(tiny_pipe, scene):
    z, t, text = scene
    p = some_prompt(blocks=2)
    with torch.no_grad():
        longer = torch.cat([text, p.expand(3, -1, -1)], 1)
        expected = tiny_pipe.unet(z, t, encoder_hidden_states=longer).sample
    torch.testing.assert_close(predict(tiny_pipe, scene, p), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mechanism", ["concat", "additive"])
def test_rows_without_p_come_out_plain_and_rows_with_it_as_alone(tiny_pipe, scene, plain, mechanism):
    p, rows = some_prompt(), torch.tensor([True, False, True])
    mixed = predict(tiny_pipe, scene, p, rows=rows, mechanism=mechanism)
    alone = predict(tiny_pipe, scene, p, mechanism=mechanism)
    torch.testing.assert_close(mixed[1], plain[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(mixed[[0, 2]], alone[[0, 2]], atol=1e-5, rtol=0)
    assert (mixed[0] - plain[0]).abs().max() > 1e-3


def test_one_prompt_a_row(tiny_pipe, scene):
    prompts = torch.cat([some_prompt(seed=i) for i in range(3)])
    together = predict(tiny_pipe, scene, prompts)
    for i in range(3):
        alone = predict(tiny_pipe, scene, some_prompt(seed=i))
        torch.testing.assert_close(together[i], alone[i], atol=1e-5, rtol=0)


def test_separate_key_and_value_prompts(tiny_pipe, scene):
    p, q = some_prompt(seed=1), some_prompt(seed=2)
    same = predict(tiny_pipe, scene, (p, p))
    torch.testing.assert_close(same, predict(tiny_pipe, scene, p), atol=1e-6, rtol=0)
    assert (predict(tiny_pipe, scene, (p, q)) - same).abs().max() > 1e-4


def test_the_recorder_sees_the_softmax_with_the_text_first(tiny_pipe, scene):
    p, rows, seen = some_prompt(), torch.tensor([True, False, True]), {}
    predict(
        tiny_pipe, scene, p, rows=rows, sites="mid", recorder=lambda name, probs: seen.update({name: probs})
    )
    assert set(seen) == set(find_cross_attention(tiny_pipe.unet))
    for name, probs in seen.items():
        columns = 154 if name in site_names(tiny_pipe.unet, "mid") else 77
        assert probs.shape[0] == 3 and probs.shape[1] == 4 and probs.shape[3] == columns
        torch.testing.assert_close(probs.sum(-1), torch.ones(probs.shape[:3]), atol=1e-5, rtol=0)
        assert columns == 77 or probs[1, ..., 77:].abs().max() == 0


def test_own_processors_come_back_even_after_an_error(tiny_pipe):
    before = dict(tiny_pipe.unet.attn_processors)
    with pytest.raises(ZeroDivisionError), attention_prompt(tiny_pipe.unet):
        raise ZeroDivisionError
    assert tiny_pipe.unet.attn_processors == before


def test_sites_are_nested_and_cover_the_middle(tiny_pipe):
    mid, mid_up, every = (site_names(tiny_pipe.unet, s) for s in ("mid", "mid-up", "down-mid-up"))
    assert mid < mid_up < every == set(find_cross_attention(tiny_pipe.unet))
    assert all("mid_block" in name for name in mid)
    with pytest.raises(InputError, match="sites must be one of"):
        site_names(tiny_pipe.unet, "everywhere")


def test_cross_attention_is_found_by_what_it_reads_not_by_its_name():
    """With only_cross_attention, attn1 reads the text as well."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 32),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=32,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        only_cross_attention=(True, False),
    )
    assert "down_blocks.0.attentions.0.transformer_blocks.0.attn1" in find_cross_attention(unet)
    assert "down_blocks.1.attentions.0.transformer_blocks.0.attn1" not in find_cross_attention(unet)


def test_attention_equals_torchs_own_with_a_mask():
    from kpop.prompt_attention import _attend

    q, k, v = (torch.randn(2, 4, 9, 8, generator=torch.Generator().manual_seed(i)) for i in range(3))
    mask = torch.zeros(2, 1, 1, 9)
    mask[1, ..., 5:] = float("-inf")
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(_attend(q, k, v, 8**-0.5, mask), expected, atol=1e-6, rtol=0)


@pytest.fixture
def fused(monkeypatch):
    """(queries, keys) of every call of the fused kernel."""
    calls, own = [], F.scaled_dot_product_attention

    def count(query, key, *rest, **how):
        calls.append((query.shape[2], key.shape[2]))
        return own(query, key, *rest, **how)

    monkeypatch.setattr(F, "scaled_dot_product_attention", count)
    return calls


@pytest.mark.parametrize("queries, keys, kernel", [(256, 154, False), (1024, 1032, True)])
def test_the_fused_kernel_and_the_explicit_products_agree(fused, queries, keys, kernel):
    from kpop.prompt_attention import _attend, _recorded

    query, key, value = (
        torch.randn(2, 3, length, 8, generator=torch.Generator().manual_seed(i))
        for i, length in enumerate((queries, keys, keys))
    )
    mask = torch.zeros(2, 1, 1, keys)
    mask[1, ..., keys // 2 :] = float("-inf")
    for some in (None, mask):
        with torch.no_grad():
            _attend(query, key, value, 8**-0.5, some)
        assert fused == [(queries, keys)]  # without a backward it is always faster
        fused.clear()
        explicit = _recorded(query, key, value, 8**-0.5, some, lambda *_: None, None)
        assert fused == []
        found = _attend(query, key, value, 8**-0.5, some)
        assert fused == ([(queries, keys)] if kernel else [])
        torch.testing.assert_close(found, explicit, atol=1e-5, rtol=0)
        fused.clear()


def test_self_attention_at_512_pixels_never_builds_its_scores(fused, sd_folder):
    """4096 x 4096 scores of 8 heads are 0.5 GB a row; a recorder wants those of the text only."""
    pipe = models.load_pipeline(str(sd_folder), device="cpu", dtype="fp32")
    z = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(1))
    text, seen = models.encode(pipe, ["a church"]), []
    fused.clear()
    with torch.no_grad(), attention_prompt(pipe.unet, recorder=lambda name, probs: seen.append(probs.shape)):
        pipe.unet(z, torch.tensor(500), encoder_hidden_states=text)
    assert (4096, 4096) in fused
    assert all(keys != 77 for _, keys in fused) and (1, 8, 4096, 77) in seen


def test_a_key_file_is_private_and_reads_back(tmp_path):
    made = HiddenPrompt.create("church", 77, 32, 2, 0.5, torch.Generator().manual_seed(0), separate_kv=True)
    made.save(tmp_path / "key.safetensors")
    assert os.stat(tmp_path / "key.safetensors").st_mode & 0o777 == 0o600
    read = HiddenPrompt.load(tmp_path / "key.safetensors")
    assert (
        read.concept == "church" and torch.equal(read.key, made.key) and torch.equal(read.value, made.value)
    )
    assert read.key.shape == (1, 154, 32)


def test_a_strangers_key_file_is_checked(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "key.safetensors"
    path.write_bytes(b"not a key")
    with pytest.raises(InputError, match="not a key file"):
        HiddenPrompt.load(path)
    about = {"format": "kpop-key-1", "mechanism": "concat", "sites": "mid"}
    save_file({"p": torch.full((1, 77, 32), float("nan"))}, path, metadata=about)
    with pytest.raises(InputError, match="no numbers"):
        HiddenPrompt.load(path)
    save_file({"p": torch.zeros(1, 77, 32).to(torch.float8_e4m3fn)}, path, metadata=about)
    with pytest.raises(InputError, match="too large or holds no numbers"):
        HiddenPrompt.load(path)
    save_file({"p": torch.zeros(77, 32)}, path, metadata=about)
    with pytest.raises(InputError, match=r"not \[1, m, d\]"):
        HiddenPrompt.load(path)
    save_file({"p": torch.zeros(1, 77, 32)}, path, metadata={**about, "sites": "elsewhere"})
    with pytest.raises(InputError, match="does not know"):
        HiddenPrompt.load(path)


def test_a_key_of_another_width_is_refused(tiny_pipe):
    with (
        pytest.raises(InputError, match="belongs to another"),
        attention_prompt(tiny_pipe.unet, torch.zeros(1, 77, 8)),
    ):
        pass


def test_keys_are_used_together_token_after_token():
    first, second = (
        HiddenPrompt(name, some_prompt(seed=i), some_prompt(seed=i)) for i, name in enumerate("ab")
    )
    both = combine([first, second])
    assert torch.equal(both.key, torch.cat([first.key, second.key], 1)) and both.concept == "a, b"


class Largest(TorchDispatchMode):
    """Entries of the largest tensor made inside the block."""

    entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        made = [one for one in (out if isinstance(out, tuple) else (out,)) if isinstance(one, torch.Tensor)]
        self.entries = max([self.entries, *(one.numel() for one in made)])
        return out


class Rows:
    """A recorder of the last row that keeps sums over keys, and the parts that it was given."""

    rows = 1

    def __init__(self):
        self.sums, self.parts = [], []

    def add(self, name, probs, start, positions):
        self.sums.append(probs.sum(-1))
        self.parts.append((tuple(probs.shape), probs.dtype, start, positions))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recording_847_columns_takes_no_more_memory_than_154_and_rows_sum_to_one(dtype):
    """k = 1 and k = 10 at 512 pixels: 4096 positions, 8 heads; all at once they are 28 million numbers."""
    from kpop.prompt_attention import CPU_PART, _attend, _recorded

    sizes = {}
    for keys in (154, 847):
        query, key, value = (
            torch.randn(2, 8, length, 4, generator=torch.Generator().manual_seed(i), dtype=dtype)
            for i, length in enumerate((4096, keys, keys))
        )
        seen = Rows()
        with torch.no_grad():
            expected = _attend(query, key, value, 0.5, None)
            with Largest() as made:
                found = _recorded(query, key, value, 0.5, None, lambda *a, s=seen: s.add("", *a), 1)
        sizes[keys] = made.entries
        torch.testing.assert_close(found, expected, atol=1e-5 if dtype == torch.float32 else 0.02, rtol=0)
        sums = torch.cat(seen.sums, 2)
        assert sums.shape == (1, 8, 4096)
        torch.testing.assert_close(sums, torch.ones_like(sums), atol=1e-5, rtol=0)
        assert {part[1] for part in seen.parts} == {torch.float32} and seen.parts[0][3] == 4096
        assert [part[2] for part in seen.parts[1:]] == [
            seen.parts[0][0][2] * i for i in range(1, len(seen.parts))
        ]
    assert sizes[847] <= 1.01 * sizes[154] and sizes[847] <= CPU_PART


def test_only_the_last_rows_are_recorded_and_pictures_stay_as_they_are(tiny_pipe, scene, fused):
    """k = 10, seen by the last row alone, as in a guided batch."""
    p, rows, seen = some_prompt(blocks=10), torch.tensor([False, False, True]), Rows()
    alone = predict(tiny_pipe, scene, p, rows=rows)
    fused.clear()
    watched = predict(tiny_pipe, scene, p, rows=rows, recorder=seen)
    torch.testing.assert_close(watched, alone, atol=1e-5, rtol=0)
    assert {part[0][0] for part in seen.parts} == {1} and {part[0][3] for part in seen.parts} == {847}
    assert sum(keys == 847 for _, keys in fused) == len(seen.parts)  # the other two rows, once a layer
