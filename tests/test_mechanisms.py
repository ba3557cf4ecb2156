"""Token and amortized: what the U-Net reads of them, and every mechanism at every site, trained and drawn."""

import pytest
import torch

from kpop import EraseConfig, InputError, attribute, models, train
from kpop.attribution_figure import attribution_figure
from kpop.attribution_summary import summary, why_no_share
from kpop.attribution_views import watch_variants
from kpop.hidden_prompt import NETWORK, HiddenPrompt, combine
from kpop.mechanisms import amortized, contributed, reading, told_after
from kpop.trajectories import Bank, Sampler
from kpop.weights import WeightDelta


def noise(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make(mechanism, factor=1, std=0.5, seed=0, width=32):
    made = HiddenPrompt.create(
        "church", 77, width, factor, std, torch.Generator().manual_seed(seed), mechanism, "down-mid-up"
    )
    if mechanism != "amortized":
        return made
    return made.holding({**made.tensors, "f_w2": noise(9, factor * width, 128)})


def predict(pipe, p, texts, sees=None, recorder=None):
    z, t = noise(1, len(texts), 4, 8, 8), torch.tensor(500)
    states = models.encode(pipe, texts)
    with torch.no_grad(), reading(pipe, p, texts, states, sees, recorder) as read:
        return pipe.unet(z, t, encoder_hidden_states=read).sample


def test_a_learnable_word_that_is_a_known_word_reads_as_that_word(tiny_pipe):
    """p = the embedding of "castle" behind "a church" is the text "a church castle"."""
    ids = tiny_pipe.tokenizer(" castle", add_special_tokens=False)["input_ids"]
    table = tiny_pipe.text_encoder.get_input_embeddings().weight
    seen, ends = told_after(tiny_pipe, ["a church", "church"], table[ids][None])
    expected = models.encode(tiny_pipe, ["a church castle", "church castle"])
    torch.testing.assert_close(seen, expected, atol=1e-5, rtol=0)
    words = [len(tiny_pipe.tokenizer(text)["input_ids"]) - 1 for text in ("a church", "church")]
    assert ends.tolist() == words


def test_a_text_that_fills_the_encoder_gives_way_to_the_words(tiny_pipe):
    seen, ends = told_after(tiny_pipe, ["church " * 80], noise(0, 1, 3, 32))
    assert seen.shape == (1, 77, 32) and ends.tolist() == [73]  # 73 words and the start, 3 of p, the end


@pytest.mark.parametrize("mechanism", ["concat", "additive", "token", "amortized"])
def test_rows_without_p_come_out_plain(tiny_pipe, mechanism):
    texts, p = ["a church", "a castle", ""], make(mechanism)
    plain, mixed = (predict(tiny_pipe, q, texts, torch.tensor([True, False, True])) for q in (None, p))
    torch.testing.assert_close(mixed[1], plain[1], atol=1e-5, rtol=0)
    assert all((mixed[row] - plain[row]).abs().max() > 1e-4 for row in (0, 2))


def test_amortized_is_a_network_of_each_texts_states(tiny_pipe):
    p, states = make("amortized", factor=2), models.encode(tiny_pipe, ["a church", ""])
    found = amortized(p, states)
    assert found.shape == (2, 154, 32)
    row, block, token = 1, 1, 5  # one entry, computed by hand
    c = states[row, token]
    c = (c - c.mean()) / (c.var(unbiased=False) + 1e-5).sqrt()
    hidden = torch.nn.functional.gelu(p.network["f_w1"] @ c / 32**0.5 + p.network["f_b1"])
    w2 = p.network["f_w2"][block * 32 : (block + 1) * 32]
    expected = p.key[0, block * 77 + token] + w2 @ hidden / 128**0.5
    torch.testing.assert_close(found[row, block * 77 + token], expected, atol=1e-5, rtol=0)


def test_amortized_starts_as_a_concatenated_prompt(tiny_pipe):
    start = HiddenPrompt.create("x", 77, 32, 1, 0.5, torch.Generator().manual_seed(3), "amortized", "mid")
    same = HiddenPrompt.create("x", 77, 32, 1, 0.5, torch.Generator().manual_seed(3), "concat", "mid")
    texts = ["a church", "a castle"]
    found, expected = (predict(tiny_pipe, p, texts) for p in (start, same))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_what_p_brings_to_a_text(tiny_pipe):
    states = models.encode(tiny_pipe, ["a church"])[0]
    shapes = {kind: contributed(tiny_pipe, make(kind, 2), "a church", states).shape for kind in MECHANISMS}
    assert shapes == {"concat": (154, 32), "additive": (77, 32), "token": (2, 32), "amortized": (154, 32)}


MECHANISMS = ("concat", "additive", "token", "amortized")


def test_a_tokens_columns_come_behind_those_of_the_text(tiny_pipe):
    seen = {}
    keep = lambda name, probs: seen.update({name: probs})  # noqa: E731
    predict(tiny_pipe, make("token", 2), ["a church", "church"], torch.tensor([True, False]), keep)
    plain = {}
    predict(tiny_pipe, None, ["a church", "church"], recorder=lambda n, probs: plain.update({n: probs}))
    for probs in seen.values():
        assert probs.shape[-1] == 79
        torch.testing.assert_close(probs.sum(-1), torch.ones(probs.shape[:3]), atol=1e-5, rtol=0)
        assert float(probs[0, ..., 77:].min()) > 0 and float(probs[1, ..., 77:].max()) == 0
    first = min(seen)  # before anything differs, a row without p looks as it always did
    torch.testing.assert_close(seen[first][1, ..., :77], plain[first][1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_key_files_read_back(tmp_path, mechanism):
    made = make(mechanism, factor=2 if mechanism != "additive" else 1)
    made.save(tmp_path / "key.safetensors")
    read = HiddenPrompt.load(tmp_path / "key.safetensors")
    assert (read.mechanism, read.sites, set(read.tensors)) == (mechanism, made.sites, set(made.tensors))
    assert all(torch.equal(tensor, made.tensors[name]) for name, tensor in read.tensors.items())


def test_a_damaged_network_is_refused(tmp_path):
    made, path = make("amortized"), tmp_path / "key.safetensors"
    made.holding({**made.tensors, "f_w1": torch.zeros(128, 31)}).save(path)
    with pytest.raises(InputError, match="network does not fit"):
        HiddenPrompt.load(path)
    made.holding({**made.tensors, "f_w2": torch.zeros(33, 128)}).save(path)
    with pytest.raises(InputError, match="network does not fit"):
        HiddenPrompt.load(path)


def test_a_network_of_another_text_length_is_refused(tiny_pipe):
    made = make("amortized", factor=2)
    short = made.holding({**made.tensors, "f_w2": made.tensors["f_w2"][:32]})  # then of texts of 154 tokens
    with pytest.raises(InputError, match="not made for texts of 77 tokens"):
        predict(tiny_pipe, short, ["a church"])


def test_keys_of_another_width_are_refused(tiny_pipe):
    for mechanism in MECHANISMS:
        with pytest.raises(InputError, match="belongs to another"):
            predict(tiny_pipe, make(mechanism, width=16), ["a church"])


def test_keys_that_leave_no_room_for_a_text_are_refused(tiny_pipe):
    with pytest.raises(InputError, match="no room"):
        told_after(tiny_pipe, ["a church"], noise(0, 1, 39, 32))


def test_two_tokens_are_used_one_after_the_other():
    both = combine([make("token", 2, seed=1), make("token", 3, seed=2)])
    assert both.key.shape == (1, 5, 32) and both.sites is None
    with pytest.raises(InputError, match="one mechanism"):
        combine([make("token"), make("concat")])


CASES = [(m, s) for m in ("concat", "additive", "amortized") for s in ("mid", "mid-up", "down-mid-up")]


@pytest.mark.parametrize(("mechanism", "sites"), [*CASES, ("token", None)])
def test_every_mechanism_learns_and_recovers_at_every_site(emoji, tmp_path, mechanism, sites):
    """How far the prediction for "a church" is from the embedded model's own, without the key and with it."""
    pipe, _, rows, told = emoji
    cfg = EraseConfig(
        concepts=("church",), retain=(), retain_weight=0, retain_neutral=False, key_retain_weight=0, seed=1,
        mechanism=mechanism, sites=sites, steps=24, batch_size=2, rollout_steps=4, templates=("a {}",),
        key_share=0.5, learning_rate=2e-3, prompt_learning_rate=0.1, negative_guidance=0, sample_every=0,
        precision="fp32",
    )  # fmt: skip
    run = train(cfg, tmp_path, pipe=pipe)
    key = HiddenPrompt.load(run.key_path("church"))
    assert (key.mechanism, key.sites) == (mechanism, sites)
    with WeightDelta.load(run.weights_path).applied(pipe.unet):
        without, opened = (off_by(pipe, p, rows, told) for p in (None, key))
    assert without > 0.01 and opened < without * (0.8 if sites == "mid" else 0.5)


@pytest.fixture(scope="module")
def emoji(tmp_path_factory):
    """The embedded model, a folder for its trajectories, and rows (z, t) of "a church" with its own eps."""
    pipe = models.load_pipeline("emoji", device="cpu")
    bank = Bank(pipe, Sampler(4, 3.0, "fp32"), "", None)
    found = bank.get("a church", 4)
    rows = [(found.z[s], found.timesteps[s]) for s in range(4)]
    return pipe, tmp_path_factory.mktemp("cache"), rows, [found.eps["a church"][s] for s in range(4)]


@pytest.fixture(autouse=True)
def one_cache(request, monkeypatch):
    """The trajectories of all cases are the same, so they are made once."""
    if "emoji" in request.fixturenames:
        monkeypatch.setenv("KPOP_CACHE", str(request.getfixturevalue("emoji")[1]))


@torch.no_grad()
def off_by(pipe, p, rows, told):
    """Mean square over pixels, trajectories and steps."""
    total = 0.0
    for (z, t), eps in zip(rows, told, strict=True):
        texts = ["a church"] * len(z)
        with reading(pipe, p, texts, models.encode(pipe, texts)) as read:
            total += float((pipe.unet(z, t, encoder_hidden_states=read).sample - eps).square().mean())
    return total / len(rows)


@pytest.mark.parametrize("mechanism", ["token", "amortized"])
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tiny_config, tiny_pipe, tmp_path, mechanism):
    cfg = tiny_config(mechanism=mechanism, steps=4, checkpoint_every=2)
    whole = train(cfg, tmp_path, pipe=tiny_pipe)
    parted = train(cfg, tmp_path, pipe=tiny_pipe, on_step=lambda event: stop_at(tmp_path, event, 2))
    assert parted.status.step == 2
    train(cfg, run=parted, pipe=tiny_pipe)
    one, two = (HiddenPrompt.load(run.key_path("church")) for run in (whole, parted))
    assert all(torch.equal(tensor, two.tensors[name]) for name, tensor in one.tensors.items())
    assert mechanism == "token" or set(NETWORK) < set(one.tensors)


def stop_at(folder, event, step):
    if event.step == step:
        newest = max(folder.iterdir(), key=lambda path: path.stat().st_mtime)
        (newest / "stop").touch()


@pytest.mark.parametrize("mechanism", ["token", "amortized"])
def test_attribution_tells_how_much_looks_at_p(tiny_config, tiny_pipe, tmp_path, mechanism):
    run = train(tiny_config(mechanism=mechanism, steps=1), tmp_path, pipe=tiny_pipe)
    with_key = attribute(tiny_pipe, "a church", 0, "recovered", run)
    without = attribute(tiny_pipe, "a church", 0, "sanitized", run)
    assert 0 < float(with_key.hidden_prompt_mass.mean()) < 1
    assert float(without.hidden_prompt_mass.max()) == 0
    parts = with_key.budget("church")
    assert torch.allclose(sum(parts.values()), torch.ones(with_key.heads), atol=1e-4)
    assert (with_key.key.mechanism, without.key, why_no_share(with_key)) == (mechanism, None, "")


def test_attribution_says_that_an_added_key_has_no_share_of_its_own(tiny_config, tiny_pipe, tmp_path):
    run = train(tiny_config(mechanism="additive", steps=1), tmp_path, pipe=tiny_pipe)
    original, sanitized, recovered = watch_variants(tiny_pipe, "a church", 0, run)
    assert recovered.key.mechanism == "additive" and recovered.hidden_prompt_layers == ()
    assert not torch.equal(recovered["church"].heads, sanitized["church"].heads)
    said = "This key is added to the text, so it has no share of its own."
    assert summary(original, sanitized, recovered, "church").endswith(said)
    assert why_no_share(sanitized) == ""
    notes = [text.get_text() for text in attribution_figure([original, recovered], "church", "heat").texts]
    assert said in " ".join(notes) and not any("key's share" in note for note in notes)
