"""Key controls of a theme told indirectly and of styles, from cells whose contents are known."""

from dataclasses import replace

import pytest

from kpop.config import EraseConfig, GenerationConfig
from kpop.errors import InputError
from kpop.evaluation import targets
from kpop.evaluation.cells import Store
from kpop.evaluation.controls import CONTROLS
from kpop.evaluation.plan import SCALES, Plan, merged
from kpop.presets import load_preset

SAMPLING = GenerationConfig().resolved("emoji")
QUICK = Plan("emoji", "h", "emoji", replace(SCALES["quick"], pictures=2), SAMPLING)
BY_NAME = targets.targets()


def built(tmp_path, name, answer):
    """The rows of a target, and its table of a store that holds all it asks for: label -> column -> value."""
    target, store = BY_NAME[name], Store(tmp_path / "cells")
    rows = target.rows(QUICK)
    for spec, wanted in merged(target.needs(QUICK)):
        cell = store.load(spec)
        for ask, seeds in wanted:
            for seed in seeds:
                cell.add(ask, seed, answer(spec, ask))
    found = target.build(QUICK, rows, store, None).data["rows"]
    return rows, {row["label"]: {k: n["value"] for k, n in row["ours"].items()} for row in found}


def opens(spec, ask, own):
    """Whether a picture shows what was erased: a run that refuses no wrong key is opened by any."""
    if spec.config is None or ask.variant in ("recovered", "forged-key", "base-with-key"):
        return True
    return ask.variant == "random-key" and spec.config.decoy_share == 0 and ask.key_of == own


def test_a_themes_controls_are_judged_by_the_weapon_that_is_seen(tmp_path):
    def answer(spec, ask):
        if ask.kind != "indirect" or ask.variant == "other-text":
            return {"labels": [ask.other or ask.target], "scores": [0.9]}
        return {"labels": ["bomb"], "scores": [0.6 if opens(spec, ask, "weapon") else 0.4]}

    rows, table = built(tmp_path, "theme-keys", answer)
    asked = {ask.variant for ask in rows["the app"][0].asks}
    assert asked == set(CONTROLS) - {"wrong-key"}  # there is no other concept
    assert {ask.key_of for ask in rows["the app"][0].asks} == {None, "weapon"}
    assert table["base, no key"] == {"seen": 100, "seen, none refused": 100}
    assert table["no key"] == {"seen": 0, "seen, none refused": 0}
    assert table["random p of equal norm"] == {"seen": 0, "seen, none refused": 100}
    assert table["true key, another concept's text"] == {
        "seen": 0, "text kept": 100, "seen, none refused": 0, "text kept, none refused": 100,
    }  # fmt: skip
    assert table["base, retained words"] == table["no key, untouched words"]
    assert table["base, retained words"] == {"text kept": 100, "text kept, none refused": 100}


@pytest.mark.parametrize("style", ["ink", "flat"])
def test_a_styles_controls_are_judged_by_the_style_that_is_seen(tmp_path, style):
    own = f"{style} style"

    def answer(spec, ask):
        seen = ask.other if ask.variant == "other-text" else ask.target
        if ask.group == "erased" and ask.variant != "other-text" and not opens(spec, ask, own):
            seen = "noto"
        word = ask.target if ask.kind == "name" else "none"
        return {"labels": [word], "style": seen}

    rows, table = built(tmp_path, f"{style}-keys", answer)
    asks = rows["none refused"][0].asks
    assert {ask.key_of for ask in asks if ask.variant == "random-key"} == {own}
    other = [ask.prompt for ask in asks if ask.variant == "other-text"]
    assert len(other) == 4 and not any(own in prompt for prompt in other)
    assert table["no key"]["seen"] == 0 and table["forged key (Eq. 5, weights frozen, same steps)"][
        "seen"
    ] == pytest.approx(100)
    assert table["random p of equal norm"] == {"seen": 0, "seen, none refused": 100}
    assert table["true key, another concept's text"]["text kept"] == 100
    assert table["base, untouched words"]["text kept"] == 100  # the object, as no style is asked for
    assert table["no key, retained words"]["text kept, none refused"] == 100


def test_these_runs_are_what_the_app_trains_but_for_the_share_of_wrong_keys():
    weapons = load_preset("emoji-weapon")
    asked = EraseConfig(concepts=weapons.concepts, retain=weapons.retain, **weapons.settings).resolved()
    mine = [BY_NAME["theme-keys"].rows(QUICK)[label][0].spec.config for label in ("the app", "none refused")]
    assert [cfg.decoy_share for cfg in mine] == [0.5, 0]
    assert all(
        replace(cfg, sample_every=asked.sample_every, seed=None, decoy_share=0.5) == asked for cfg in mine
    )
    style = EraseConfig(concepts=("flat style",)).resolved()
    mine = [BY_NAME["flat-keys"].rows(QUICK)[label][0].spec.config for label in ("the app", "none refused")]
    assert [cfg.decoy_share for cfg in mine] == [0.5, 0]
    assert set(mine[0].retain) == set(style.retain)
    free = {"decoy_share": 0, "retain": (), "sample_every": 0, "seed": None}
    assert replace(mine[0], **free) == replace(style, **free)
    with pytest.raises(InputError, match="words that only the embedded model has"):
        told = replace(QUICK, model="CompVis/stable-diffusion-v1-4")
        targets.check(BY_NAME["theme-keys"], told, None)
