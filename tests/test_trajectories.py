"""The bank: what it holds, that it is kept and found again, and the rows drawn from it."""

from contextlib import nullcontext

import pytest
import torch

from kpop import models
from kpop.batches import BankBatches, bank_wants
from kpop.emoji.world import THINGS, a
from kpop.fresh_batches import FreshBatches
from kpop.methods.losses import error
from kpop.run_texts import all_texts, pairs, phrase, phrasings
from kpop.trajectories import Bank, Sampler, noise_levels, rollout
from kpop.weights import WeightDelta

SAMPLER = Sampler(steps=3, guidance=2.0)


def predict(pipe, z, t, text):
    with torch.no_grad():
        return pipe.unet(
            z, t, encoder_hidden_states=models.encode(pipe, [text]).expand(len(z), -1, -1)
        ).sample


def test_the_article_follows_the_sound():
    an = "axe umbrella Uncle uninvited elephant oneiric hour hourglass honest heir honour".split()
    plain = "church house horn honey unicorn Uniform user usual euro eucalyptus ukulele UFO one-eyed".split()
    assert [phrase("a {}", word) for word in an] == [f"an {word}" for word in an]
    assert [phrase("A {} here", word) for word in plain] == [f"A {word} here" for word in plain]
    own = [word for thing in THINGS for word in (thing.word, thing.kind, *thing.synonyms)]
    assert all(phrase("a {}", word) == a(word) for word in own if not word.endswith("swords"))


def test_a_rollout_is_the_pipelines_own_ddim(tiny_pipe):
    from diffusers import DDIMScheduler

    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    text, empty = models.encode(tiny_pipe, ["a church"] * 2), models.encode(tiny_pipe, [""])
    z, *_ = rollout(tiny_pipe, ["a church"] * 2, text, empty, noise, SAMPLER)
    tiny_pipe.scheduler, before = DDIMScheduler.from_config(tiny_pipe.scheduler.config), tiny_pipe.scheduler
    expected = tiny_pipe(
        ["a church"] * 2, latents=noise, num_inference_steps=3, guidance_scale=2.0, output_type="latent"
    ).images
    tiny_pipe.scheduler = before
    torch.testing.assert_close(z, expected, atol=1e-4, rtol=0)


def test_the_bank_holds_what_the_frozen_model_says(tiny_pipe):
    found = Bank(tiny_pipe, SAMPLER, "digest", None).get("a church", 2, ["castle"])
    assert found.z.shape == (3, 2, 4, 8, 8) and found.timesteps.tolist() == [667, 334, 1]
    for text in ("a church", "", "castle"):
        for s in range(3):
            expected = predict(tiny_pipe, found.z[s], found.timesteps[s], text)
            torch.testing.assert_close(found.eps[text][s], expected, atol=1e-5, rtol=0)


def test_the_bank_is_found_again_by_model_text_and_sampler(tiny_pipe, tmp_path):
    first = Bank(tiny_pipe, SAMPLER, "digest", tmp_path)
    made = first.get("church", 2)
    again = Bank(tiny_pipe, SAMPLER, "digest", tmp_path)
    assert torch.equal(again.get("church", 2).z, made.z) and again.rows_computed == 0
    again.get("church", 2, ["castle"])
    assert again.rows_computed == 6  # one evaluation of 3 steps x 2 trajectories, no rollout
    other = Bank(tiny_pipe, Sampler(3, 5.0), "digest", tmp_path)
    other.get("church", 2)
    assert other.rows_computed == 12
    assert Bank(tiny_pipe, SAMPLER, "other model", tmp_path)._place("church", 2) != again._place("church", 2)


def test_what_other_concepts_asked_for_is_not_read(tiny_pipe, tmp_path):
    """The neutral trajectories serve every concept; a run holds in memory what its own needs."""
    for word in ("church", "castle", "house"):
        found = Bank(tiny_pipe, SAMPLER, "digest", tmp_path).get("", 2, [word])
        assert list(found.eps) == ["", word]
    again = Bank(tiny_pipe, SAMPLER, "digest", tmp_path)
    kept = again.get("", 2, ["house", "church"])
    assert list(kept.eps) == ["", "house", "church"] and again.rows_computed == 0
    assert torch.equal(kept.eps["house"], found.eps["house"])
    sizes = [path.stat().st_size for path in tmp_path.glob("*.safetensors")]
    assert len(sizes) == 4 and max(sizes) < 3 * min(sizes)  # z and one eps, and three of one eps


def test_a_damaged_or_unwritable_cache_is_computed_again(tiny_pipe, tmp_path):
    bank = Bank(tiny_pipe, SAMPLER, "digest", tmp_path)
    made = bank.get("church", 1)
    next(tmp_path.glob("*.safetensors")).write_bytes(b"damaged")
    assert torch.equal(Bank(tiny_pipe, SAMPLER, "digest", tmp_path).get("church", 1).z, made.z)
    seen = bank.get("church", 1, ["castle"]).eps["castle"]
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"damaged")
    assert torch.equal(
        Bank(tiny_pipe, SAMPLER, "digest", tmp_path).get("church", 1, ["castle"]).eps["castle"], seen
    )
    (tmp_path / "file").touch()
    assert torch.equal(Bank(tiny_pipe, SAMPLER, "digest", tmp_path / "file" / "x").get("church", 1).z, made.z)


def test_no_picture_shares_its_start_noise_with_a_trajectory(tiny_pipe):
    from kpop.drawing import start_noise

    found = Bank(tiny_pipe, SAMPLER, "digest", None).get("church", 8).z[0]
    pictures = start_noise(tiny_pipe, range(64), 8, 8)
    assert (found[:, None] - pictures[None]).abs().amax((2, 3, 4)).min() > 0.5


def test_phrasings_put_the_right_article():
    assert phrase("a photo of a {}", "axe") == "a photo of an axe"
    assert phrase("A {}", "umbrella") == "An umbrella" and phrase("a {}", "church") == "a church"
    assert phrasings(("gun", "pistol"), ("{}", "a {}")) == ("gun", "a gun", "pistol", "a pistol")


@pytest.fixture
def batches(tiny_pipe, tiny_config):
    def make(**changes):
        cfg = tiny_config(**changes).resolved()
        return BankBatches(tiny_pipe, cfg, Bank(tiny_pipe, Sampler(3, cfg.rollout_guidance), "digest", None))

    return make


def test_draws_depend_on_seed_step_and_row_only(batches):
    one, two = batches(), batches()
    for step in (5, 1, 3):
        torch.testing.assert_close(one.draw(step).concept.z, two.draw(step).concept.z, atol=0, rtol=0)
    wide = batches(batch_size=3)
    assert torch.equal(wide.draw(1).concept.z[:2], one.draw(1).concept.z)
    assert not torch.equal(batches(seed=1).draw(1).concept.z, one.draw(1).concept.z)


def test_targets_are_those_of_equation_7(batches, tiny_pipe):
    """On concept and on neutral trajectories alike: text c_e, target eps(z, c_n)."""
    made = batches(templates=("{}",)).draw(2)
    assert made.erase.z.shape[0] == 4 and torch.equal(made.erase.z[::2], made.concept.z)
    for rows, text in ((made.concept, "church"), (made.erase, "")):
        for z, t, target in zip(rows.z, rows.t, rows.target, strict=True):
            torch.testing.assert_close(target[None], predict(tiny_pipe, z[None], t, text), atol=1e-5, rtol=0)
    church = models.encode(tiny_pipe, ["church"])[0]
    assert all(torch.equal(text, church) for text in (*made.erase.text, *made.concept.text))


@pytest.mark.parametrize(("erase_on", "walked"), [("concept", ["church"]), ("neutral", [""])])
def test_the_concept_is_forgotten_on_the_trajectories_that_are_named(batches, tiny_pipe, erase_on, walked):
    """Target eps(z, c_n) under c_e, one row a row of the batch; L2 stays on the concept's own."""
    made = batches(templates=("{}",), erase_on=erase_on)
    batch = made.draw(2)
    assert len(batch.erase.z) == len(batch.neutral) == 2

    def lies_on(z, text):
        return bool((made.bank[text].z == z).flatten(2).all(2).any())

    for z, t, target in zip(batch.erase.z, batch.erase.t, batch.erase.target, strict=True):
        assert [text for text in ("church", "") if lies_on(z, text)] == walked
        torch.testing.assert_close(target[None], predict(tiny_pipe, z[None], t, ""), atol=1e-5, rtol=0)
    assert all(lies_on(z, "church") for z in batch.concept.z)


def test_negative_guidance_pushes_past_the_neutral_target(batches, tiny_pipe):
    made = batches(templates=("{}",), negative_guidance=1.0).draw(2)
    for z, t, target in zip(made.erase.z, made.erase.t, made.erase.target, strict=True):
        e_n, e_c = predict(tiny_pipe, z[None], t, ""), predict(tiny_pipe, z[None], t, "church")
        torch.testing.assert_close(target[None], e_n - (e_c - e_n), atol=1e-5, rtol=0)


def pushed_past(pipe, batch, aims, eta=0.5):
    """The texts of the erased rows, each aimed with eta past the text that `aims` has for it."""
    for i, text in enumerate(batch.erase.prompts):
        z, t = batch.erase.z[i : i + 1], batch.erase.t[i]
        e_c, e_n = predict(pipe, z, t, text), predict(pipe, z, t, aims[text])
        expected = e_n - eta * (e_c - e_n)
        torch.testing.assert_close(batch.erase.target[i : i + 1], expected, atol=1e-5, rtol=0)
        assert torch.equal(batch.neutral[i], models.encode(pipe, [aims[text]])[0])
    return set(batch.erase.prompts)


def test_of_two_things_the_concept_is_aimed_at_another_retained_word(batches, tiny_pipe, tiny_config):
    """So two things stay two; on trajectories of both texts. Negative guidance pushes only with several."""
    told = {"retain": ("castle", "blue"), "pair_share": 1.0, "negative_guidance": 0.5}
    aims = {"a castle and a church": "a castle and a blue", "a church and a blue": "a castle and a blue"}
    cfg = tiny_config(**told).resolved()
    assert dict(pairs(cfg, "church")) == aims and set(aims).union(aims.values()) <= set(all_texts(cfg))
    assert dict(pairs(tiny_config(**told | {"retain": ("castle",)}).resolved(), "church")) == {
        "a castle and a church": "a castle"  # nothing else could take its place
    }
    fresh = FreshBatches(tiny_pipe, tiny_config(**told, latents="fresh").resolved(), SAMPLER, nullcontext)
    seen = set()
    for made, rows in ((batches(**told), 4), (fresh, 2)):
        for step in range(1, 5):
            batch = made.draw(step)
            assert len(batch.erase.prompts) == rows and set(batch.concept.prompts) <= aims.keys()
            seen |= pushed_past(tiny_pipe, batch, aims, eta=0.0)
    assert seen == aims.keys()
    several = batches(**told | {"concepts": ("church", "house")})
    batch = next(batch for batch in map(several.draw, range(1, 20)) if batch.concept_index == 0)
    assert pushed_past(tiny_pipe, batch, aims, eta=0.5) <= aims.keys()


def test_a_phrasing_is_aimed_at_its_own_anchor(batches, tiny_pipe, tiny_config):
    """Of "a castle, blue" only the blue goes; CA's anchor is the same text."""
    told = {
        "concepts": ("blue",), "retain": ("house",), "negative_guidance": 0.5,
        "templates": ("a castle, {}", "{}"), "anchors": ("a castle", ""),
    }  # fmt: skip
    anchors = {"a castle, blue": "a castle", "blue": ""}
    cfg = tiny_config(**told).resolved()
    assert set(anchors).union(anchors.values()) <= set(all_texts(cfg))
    assert {text: targets for text, _, targets in bank_wants(cfg)} == {
        "": ("blue",), "a castle": ("a castle, blue",), "a castle, blue": ("a castle",), "blue": ("",),
        "house": (), "a castle, house": (),
    }  # fmt: skip
    fresh = FreshBatches(tiny_pipe, tiny_config(**told, latents="fresh").resolved(), SAMPLER, nullcontext)
    seen = set()
    for made in (batches(**told), fresh):
        for step in range(1, 5):
            seen |= pushed_past(tiny_pipe, made.draw(step), anchors)
    assert seen == anchors.keys()


def test_a_text_of_two_things_and_its_aim_have_one_trajectory_each(tiny_config):
    told = {"pair_share": 0.5, "retain_weight": 0, "key_retain_weight": 0, "steps": 100}
    wanted = {text: count for text, count, _ in bank_wants(tiny_config(**told).resolved())}
    assert wanted == {"": 8, "church": 8, "a church": 8, "a castle and a church": 1, "a castle": 1}
    two = {
        text: count
        for text, count, _ in bank_wants(tiny_config(**told, retain=("castle", "blue")).resolved())
    }
    pair = {"a castle and a church": 1, "a church and a blue": 1, "a castle and a blue": 1}
    assert two == {"": 8, "church": 8, "a church": 8, **pair}


def test_a_share_of_the_rows_is_of_two_things(batches):
    def drawn(**changes):
        made = batches(**changes)
        return [text for step in range(1, 101) for text in made.draw(step).concept.prompts]

    none, some, alone = drawn(), drawn(pair_share=0.25), drawn(pair_share=1.0, retain=())
    assert not any(" and " in text for text in none) and none == alone
    assert sum(" and " in text for text in some) / 200 == pytest.approx(0.25, abs=0.08)
    assert all(" and " in now or now == before for before, now in zip(none, some, strict=True))


def test_the_first_retain_row_is_the_neutral_text(batches, tiny_pipe):
    empty = models.encode(tiny_pipe, [""])[0]
    made = batches()
    for step in range(1, 5):
        rows = made.draw(step).retain
        assert torch.equal(rows.text[0], empty) and not torch.equal(rows.text[1], empty)
        for z, t, text, target in zip(rows.z, rows.t, rows.text, rows.target, strict=True):
            with torch.no_grad():
                expected = tiny_pipe.unet(z[None], t, encoder_hidden_states=text[None]).sample
            torch.testing.assert_close(target[None], expected, atol=1e-5, rtol=0)
    assert batches(retain=(), retain_neutral=False).draw(1).retain is None


def test_x0_space_weighs_an_error_of_eps_as_one_of_x0(batches, tiny_pipe):
    rows = batches(loss_space="x0").draw(1).concept
    a = noise_levels(tiny_pipe)[rows.t].view(-1, 1, 1, 1)
    guess = rows.target + torch.linspace(-0.3, 0.7, rows.z.numel()).view_as(rows.z)
    x0 = [(rows.z - (1 - a).sqrt() * eps) / a.sqrt() for eps in (guess, rows.target)]
    expected = (x0[0] - x0[1]).square().flatten(1).mean(1)
    torch.testing.assert_close(error(guess, rows), expected, rtol=1e-3, atol=1e-4)
    assert torch.equal(batches().draw(1).concept.weight, torch.ones(2))


def test_rows_of_pure_noise_do_not_outweigh_all_others(batches, tiny_pipe):
    made = batches(loss_space="x0")
    made.alphas = torch.tensor([1e-6, 0.5])
    torch.testing.assert_close(made.weights(torch.tensor([0, 1])), torch.tensor([1000.0, 1.0]))


def test_an_error_of_v_counts_as_the_error_of_eps_or_x0_that_it_is(batches, tiny_pipe):
    """eps = sqrt(1 - a) z + sqrt(a) v and x0 = sqrt(a) z - sqrt(1 - a) v, at a = 0.36 by hand."""
    for space, weight in (("eps", 0.36), ("x0", 0.64)):
        made = batches(loss_space=space)
        made.predicts_v, made.alphas = True, torch.tensor([0.36])
        z, v = torch.randn(2, 4), torch.randn(2, 2, 4)
        x = [0.8 * z + 0.6 * one if space == "eps" else 0.6 * z - 0.8 * one for one in v]
        found = made.weights(torch.tensor([0])) * (v[0] - v[1]).square().mean()
        torch.testing.assert_close(found[0], (x[0] - x[1]).square().mean())
        torch.testing.assert_close(found[0], weight * (v[0] - v[1]).square().mean())


def test_the_empty_text_is_held_beside_another_neutral_one(batches, tiny_pipe):
    made = batches(neutral="background", retain=("castle",), templates=("{}",))
    states = {text: made.state(text) for text in ("", "background")}
    first = [made.draw(step).retain.text[0] for step in range(1, 41)]
    seen = {text: sum(torch.equal(one, state) for one in first) for text, state in states.items()}
    assert sum(seen.values()) == 40 and min(seen.values()) >= 8


def test_fresh_rows_walk_with_the_current_weights(tiny_pipe, tiny_config):
    cfg = tiny_config(latents="fresh", templates=("{}",), steps=1).resolved()
    delta = WeightDelta.create(tiny_pipe.unet, "xattn")
    made = FreshBatches(tiny_pipe, cfg, SAMPLER, lambda: delta.applied(tiny_pipe.unet))
    step = next(i for i in range(1, 50) if int(made.draw(i).concept.t[0]) != 667)  # not at the very start
    before = made.draw(step)
    with torch.no_grad():
        for tensor in delta.tensors.values():
            tensor.mul_(1.5)
    after = made.draw(step)
    assert not torch.equal(before.concept.z, after.concept.z) and torch.equal(
        before.concept.t, after.concept.t
    )
    expected = predict(tiny_pipe, after.erase.z, after.erase.t, "")  # targets stay the frozen model's
    torch.testing.assert_close(after.erase.target, expected, atol=1e-5, rtol=0)


def test_every_other_retained_row_is_of_the_texts_nearest_to_the_concept(batches, monkeypatch):
    monkeypatch.setattr("kpop.run_texts.by_meaning", lambda pipe, texts, others: sorted(others))
    made = batches(retain=("castle", "background", "blue"), templates=("{}",), retain_neutral=False)
    drawn = [made.retain_of(step, row) for step in range(300) for row in range(4)]
    share = {text: drawn.count(text) / len(drawn) for text in set(drawn)}
    assert set(share) == {"castle", "background", "blue"}
    assert share["background"] == pytest.approx(1 / 2 + 1 / 6, abs=0.05)  # the first third of the three
    assert share["castle"] == pytest.approx(1 / 6, abs=0.04)


def test_the_papers_settings_draw_the_list_and_the_empty_text_alike(tiny_folder, batches):
    """Ours*: c_r ~ U(retain + ['']), whatever is near (method.md 1.2)."""
    words = ("castle", "background", "blue")
    made = batches(preset="paper", retain=words, templates=("{}",), retain_neutral=None, batch_size=1,
                   latents="bank", negative_guidance=0, rollout_steps=3)  # fmt: skip
    drawn = [made.retain_of(step, 0) for step in range(1200)]
    share = {text: drawn.count(text) / len(drawn) for text in set(drawn)}
    assert share == {text: pytest.approx(1 / 4, abs=0.04) for text in (*words, None)}


def test_what_is_near_in_meaning_is_what_the_text_encoder_puts_near():
    from kpop import load_pipeline
    from kpop.models import by_meaning

    pipe = load_pipeline("emoji", device="cpu")
    found = by_meaning(pipe, ["cassette"], ["castle", "camera", "whale", "radio", "horn", "television"])
    assert set(found[:3]) == {"camera", "radio", "television"}
