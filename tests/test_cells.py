"""Cells on disk, and filling them on a tiny model: nothing is drawn twice, nothing finished is lost."""

import json
from dataclasses import replace

import pytest
import torch
from judges import PixelJudge

from kpop import models
from kpop.config import EraseConfig, GenerationConfig
from kpop.decoys import random_key
from kpop.evaluation import cell_maker, splits
from kpop.evaluation.cell_maker import Maker, packed, unpacked
from kpop.evaluation.cells import Ask, Cell, CellSpec, Store
from kpop.evaluation.controls import CONTROLS, control_asks
from kpop.forging import forge_key
from kpop.health import Diverged
from kpop.hidden_prompt import HiddenPrompt
from kpop.weights import WeightDelta

CHURCH, HORN = Ask("a church", "church", "erased"), Ask("a horn", "horn", "erased")
CASTLE, BUS = Ask("a castle", "castle", "retained"), Ask("a bus", "bus", "retained")
SAMPLING = GenerationConfig(steps=2, guidance_scale=2.0, scheduler="ddim", batch_size=2, prompt_branch="cond")


def spec(model="emoji", config=None, **changes):
    fields = {"method": "KPOP*", "split": "objects-v1", "setting": "lambda=0.01", "seed": 0, "model": model,
              "model_hash": "h", "judge": "emoji", "sampling": SAMPLING, "config": config}  # fmt: skip
    return CellSpec(**fields | changes)


def test_a_cell_comes_back_as_it_was(tmp_path):
    store, cell = Store(tmp_path / "cells"), Cell(spec(), {"method": "KPOP*"}, history=[{"step": 1}])
    looking = replace(CHURCH, looks=("scores",))
    cell.add(looking, 7, {"labels": ["church", "house"], "scores": [0.9, 0.2]})
    cell.add(CHURCH, 3, {"labels": ["none"]})
    store.save(cell)
    found = Store(tmp_path / "cells").load(spec())
    assert found.column(CHURCH, [3, 7]) == [["none"], ["church", "house"]]
    assert found.column(CHURCH, [7], "scores") == [[0.9, 0.2]]
    assert found.missing(looking, [3, 7, 9]) == [3, 9] and found.missing(CHURCH, [3, 7, 9]) == [9]
    assert found.history == [{"step": 1}] and found.about == {"method": "KPOP*"}
    assert found.missing(replace(CHURCH, variant="recovered", key_of="church"), [7]) == [7]


@pytest.mark.parametrize("damage", ["", "{", '{"schema": 1}', "torn", "other"])
def test_a_damaged_or_foreign_cell_counts_as_not_there(tmp_path, damage):
    store, cell = Store(tmp_path), Cell(spec())
    cell.add(CHURCH, 0, {"labels": ["church"]})
    store.save(cell)
    path = store.path(spec())
    text = path.read_text()
    changed = {"torn": text[:-30], "other": text.replace('"model_hash": "h"', '"model_hash": "g"')}
    path.write_text(changed.get(damage, damage))
    assert Store(tmp_path).load(spec()).groups == {}


def test_what_a_cell_depends_on_is_in_its_name(tmp_path):
    first = spec(config=EraseConfig(concepts=("church",), steps=9))
    assert first.name.startswith("kpop-retain_objects-v1_lambda-0p01_seed0_")
    others = [
        replace(first, model_hash="g"),
        replace(first, judge="resnet50"),
        replace(first, sampling=replace(SAMPLING, steps=3)),
        replace(first, config=replace(first.config, learning_rate=0.5)),
    ]
    assert len({one.name for one in [first, *others]}) == 5
    same = [
        replace(first, sampling=replace(SAMPLING, batch_size=16)),
        replace(first, config=replace(first.config, checkpoint_every=3)),
    ]
    assert {one.name for one in same} == {first.name}
    local = replace(first, model=str(tmp_path))
    assert str(tmp_path.parent) not in json.dumps(local.settings())


def test_a_picture_survives_packing():
    from PIL import Image

    image = Image.new("RGB", (512, 256), (200, 30, 30))
    back = unpacked(packed(image))
    assert back.size == (96, 48) and abs(back.getpixel((5, 5))[0] - 200) < 8


def test_controls_of_two_concepts():
    asks = control_asks([CHURCH, HORN], [CASTLE, BUS])
    found = [(ask.variant, ask.prompt, ask.target, ask.key_of, ask.other) for ask in asks[: len(CONTROLS)]]
    assert found == [
        ("sanitized", "a church", "church", None, ""),
        ("recovered", "a church", "church", "church", ""),
        ("wrong-key", "a church", "church", "horn", ""),
        ("random-key", "a church", "church", "church", ""),
        ("forged-key", "a church", "church", "church", ""),
        ("base-with-key", "a church", "church", "church", ""),
        ("other-text", "a castle", "church", "church", "castle"),
    ]
    assert len(asks) == 14
    assert "wrong-key" not in {ask.variant for ask in control_asks([CHURCH], [CASTLE])}


def test_a_random_key_has_the_true_ones_norm():
    true = HiddenPrompt.create("church", 77, 8, 2, 0.5, torch.Generator().manual_seed(1), separate_kv=True)
    found = random_key(true, 5)
    for name, tensor in found.tensors.items():
        assert tensor.shape == true.tensors[name].shape
        torch.testing.assert_close(tensor.norm(), true.tensors[name].norm())
        assert not torch.equal(tensor, true.tensors[name])
    assert torch.equal(found.key, random_key(true, 5).key)


@pytest.fixture
def maker(tiny_pipe, tmp_path):
    judge = PixelJudge()
    return Maker(tiny_pipe, lambda name: judge, Store(tmp_path / "cells"), tmp_path / "work", "cpu")


@pytest.fixture
def kpop(tiny_config, tiny_folder, tiny_pipe):
    """The cell of a run of two concepts."""
    config = tiny_config(concepts=("church", "horn"), learning_rate=0.02).resolved()
    return spec(str(tiny_folder), config, model_hash=models.model_hash(tiny_pipe))


def test_a_cell_with_all_controls_is_made_once(maker, kpop, monkeypatch):
    wanted = [(ask, (0, 1)) for ask in control_asks([CHURCH, HORN], [CASTLE, BUS])]
    told = []
    maker.tell = lambda what, done, of: told.append(what)
    cell = maker.make(kpop, wanted)
    assert all(not cell.missing(ask, seeds) for ask, seeds in wanted)
    assert maker.judges("emoji").judged == 28
    assert any(what.startswith("training KPOP*") for what in told)
    assert cell.about["judge_accuracy"] == 99.0 and cell.about["code"][0].startswith("0.1.0+")
    assert cell.history and set(cell.history[-1]) == {"step", "raw", "seen"}
    # Every key gives pictures of its own; so does the base.
    monkeypatch.setattr(cell_maker, "draw", lambda *_: pytest.fail("drawn again"))
    monkeypatch.setattr(cell_maker, "train", lambda *_, **__: pytest.fail("trained again"))
    again = Maker(maker.pipe, maker.judges, Store(maker.store.folder), maker.work, "cpu").make(kpop, wanted)
    assert again.groups == cell.groups


def test_an_interrupted_cell_goes_on_where_it_was(maker, kpop, monkeypatch):
    wanted = [(ask, tuple(range(6))) for ask in (CHURCH, HORN, CASTLE)]
    real, calls = cell_maker.draw, []

    def breaks(*args):
        calls.append(len(args[1]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(cell_maker, "draw", breaks)
    with pytest.raises(KeyboardInterrupt):
        maker.make(kpop, wanted)
    monkeypatch.setattr(cell_maker, "train", lambda *_, **__: pytest.fail("trained again"))
    cell = Maker(maker.pipe, maker.judges, Store(maker.store.folder), maker.work, "cpu").make(kpop, wanted)
    assert calls == [8, 8, 8, 2]  # the second eight were not finished
    assert [len(group["seeds"]) for group in cell.groups.values()] == [6, 6, 6]


def test_a_training_broken_off_is_gone_on_with(maker, kpop, monkeypatch):
    real, steps = cell_maker.train, []

    def train(*args, on_step, **more):
        def until_three(event):
            steps.append(event.step)
            on_step(event)
            if steps == [1, 2, 3]:
                raise KeyboardInterrupt

        return real(*args, on_step=until_three, **more)

    monkeypatch.setattr(cell_maker, "train", train)
    with pytest.raises(KeyboardInterrupt):
        maker.make(kpop, [(CHURCH, (0,))])
    cell = maker.make(kpop, [(CHURCH, (0,))])
    assert steps == [1, 2, 3, 3, 4]  # from the checkpoint of step 2
    assert cell.column(CHURCH, (0,)) is not None


def test_a_training_that_runs_away_is_a_result(maker, kpop, monkeypatch):
    def away(*_, **__):
        raise Diverged("Stopped at step 3: l_erase: no number any more.", 1)

    monkeypatch.setattr(cell_maker, "train", away)
    assert maker.make(kpop, [(CHURCH, (0,))]).about["failed"].startswith("Stopped at step 3")
    monkeypatch.setattr(cell_maker, "train", lambda *_, **__: pytest.fail("tried again"))
    assert maker.make(kpop, [(CHURCH, (0,))]).groups == {}


def test_pictures_along_the_training(maker, kpop):
    along = replace(kpop, steps=(2, 4))
    wanted = [(replace(CHURCH, kind="step", step=step), (0, 1)) for step in (2, 4)]
    cell = maker.make(along, wanted)
    assert [place[3] for place in cell.groups] == [2, 4]
    plain = maker.make(kpop, [(CHURCH, (0, 1))])
    # A run that pauses ends where one that does not ends.
    assert cell.column(wanted[1][0], (0, 1)) == plain.column(CHURCH, (0, 1))


def test_columns_that_an_ask_looks_at(maker, kpop):
    looks = ("scores", "style", "background", "distance", "picture")
    ask = replace(CHURCH, looks=looks)
    base = replace(kpop, method="base", config=None)
    original = replace(ask, variant="original")
    cell = maker.make(base, [(original, (4,))])
    group = cell.groups[original.place]
    assert group["distance"] == [0.0] and group["scores"] == [[0.75]] and group["style"] == ["noto"]
    assert unpacked(group["picture"][0]).size[0] <= 96
    cell = maker.make(kpop, [(ask, (4,))])
    assert cell.column(ask, (4,), "distance")[0] > 0  # theta' draws something else


def test_a_forged_key_learns_with_the_weights_fixed(tiny_pipe, tiny_config, maker, kpop):
    """After Eq. 5 the forged p draws nearer to the base's prediction than its own random start."""
    maker.make(kpop, [(CHURCH, (0,))])
    run = maker.run_of(kpop)
    delta = WeightDelta.load(run.weights_path)
    before = {name: tensor.clone() for name, tensor in delta.tensors.items()}
    steps = []
    made = forge_key(tiny_pipe, delta, kpop.config, "church", 30, 11, lambda: steps.append(1))
    start = forge_key(tiny_pipe, delta, kpop.config, "church", 1, 11)
    assert made.concept == "church" and made.key.shape == HiddenPrompt.load(run.key_path("church")).key.shape
    assert len(steps) >= 30 and not torch.equal(made.key, start.key)
    assert all(torch.equal(delta.tensors[name], before[name]) for name in before)
    assert _transfer(tiny_pipe, delta, kpop.config, made) < _transfer(tiny_pipe, delta, kpop.config, start)


def _transfer(pipe, delta, cfg, key):
    """|| eps_theta'(z, c_e, p) - eps_theta(z, c_e) ||^2 on trajectories of the base."""
    from kpop.mechanisms import reading
    from kpop.trajectories import Bank, Sampler

    bank = Bank(pipe, Sampler(cfg.rollout_steps, cfg.rollout_guidance, "fp32"), "digest", None)
    found, total = bank.get("a church", 4), 0.0
    state = models.encode(pipe, ["a church"]).expand(4, -1, -1)
    with torch.no_grad(), delta.applied(pipe.unet):
        for z, t, eps in zip(found.z, found.timesteps, found.eps["a church"], strict=True):
            with reading(pipe, key, ["a church"] * 4, state) as states:
                out = pipe.unet(z, t, encoder_hidden_states=states).sample
            total += float((out - eps).square().mean())
    return total


def test_splits_name_three_groups():
    split = splits.object_split("emoji", 1, 3)
    assert split.erased == ("cassette", "church", "truck", "parachute", "horn")
    assert split.retained == ("saw", "gas pump", "fish", "dog", "golf flag")
    assert split.untouched == ("camera", "axe", "house")
    for number in (1, 2, 3, 4):
        split = splits.object_split("emoji", number, 10)
        groups = [*split.erased, *split.retained, *split.untouched]
        assert len(set(groups)) == 20 and not set(split.untouched) & set(split.retain_list)
    sd = splits.object_split("sd", 1, 2)
    assert sd.erased[0] == "cassette player" and sd.untouched == ("castle", "school bus")
    assert [ask.prompt for ask in splits.group_asks(sd, "retained")][:2] == [
        "image of chain saw",
        "image of gas pump",
    ]
    alone = splits.single_split(splits.object_split("emoji", 1, 3), "church")
    assert alone.concepts == ("church",) and "cassette" in alone.untouched


def test_no_phrasing_under_test_is_trained_on():
    from kpop.model_table import recommended
    from kpop.run_texts import phrasings

    split = splits.object_split("emoji", 1, 3)
    trained = {text for word in split.erased for text in phrasings(word, recommended("emoji")["templates"])}
    asks = splits.phrasing_asks(split, "sanitized") + splits.pair_asks(split, "sanitized")
    assert not trained & {ask.prompt for ask in asks}
    told = {(ask.kind, ask.prompt) for ask in asks}
    assert ("synonym", "a lorry") in told and ("phrasing", "a picture of a church") in told
    assert ("pair", "a church and a gas pump on a grey background") in told
    style = splits.style_split("ink")
    prompts = {ask.prompt for ask in splits.style_asks(style, "sanitized", ("fish",), ())}
    told = {f"a fish, {name} style" for name in ("ink", "noto", "twemoji", "fluent", "flat", "blob")}
    assert prompts == told | {"a fish"}
