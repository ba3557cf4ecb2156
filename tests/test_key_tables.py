"""Key controls of a theme told indirectly and of styles, from cells whose contents are known."""

from dataclasses import replace

import pytest
from shared_cells import filled

from kpop.config import EraseConfig, GenerationConfig
from kpop.errors import InputError
from kpop.evaluation import targets
from kpop.evaluation.controls import CONTROLS
from kpop.evaluation.plan import SCALES, Plan
from kpop.presets import load_preset

SAMPLING = GenerationConfig().resolved("emoji")
QUICK = Plan("emoji", "h", "emoji", replace(SCALES["quick"], pictures=2), SAMPLING)
BY_NAME = targets.targets()


def built(tmp_path, name, answer):
    """The rows of a target, and its table of a store that holds all it asks for: label -> column -> value."""
    target = BY_NAME[name]
    rows, store = target.rows(QUICK), filled(tmp_path, target, answer, QUICK)
    found = target.build(QUICK, rows, store, None).data["rows"]
    return rows, {row["label"]: {k: n["value"] for k, n in row["ours"].items()} for row in found}


def columns(name, *values):
    """The values of a column: of runs that refuse wrong keys, of those that keep with keys, of neither."""
    marks = ("", ", kept with keys", ", none refused")
    return {f"{name}{mark}": value for mark, value in zip(marks, values, strict=True)}


def opens(spec, ask, own):
    """Whether a picture shows what was erased: a run that refuses no wrong key is opened by any."""
    if spec.config is None or ask.variant in ("recovered", "forged-key", "base-with-key"):
        return True
    return ask.variant == "random-key" and spec.config.decoy_share == 0 and ask.key_of == own


def test_a_themes_controls_are_judged_by_the_weapon_that_is_seen(tmp_path):
    def answer(spec, ask, seed):
        if ask.kind != "indirect" or ask.variant == "other-text":
            return {"labels": [ask.other or ask.target], "scores": [0.9]}
        return {"labels": ["bomb"], "scores": [0.6 if opens(spec, ask, "weapon") else 0.4]}

    rows, table = built(tmp_path, "theme-keys", answer)
    asked = {ask.variant for ask in rows["runs"][0].asks}
    assert asked == set(CONTROLS) - {"wrong-key"}  # there is no other concept
    assert {ask.key_of for ask in rows["runs"][0].asks} == {None, "weapon"}
    assert table["base, no key"] == columns("seen", 100, 100, 100)
    assert table["no key"] == columns("seen", 0, 0, 0)
    assert table["random p of equal norm"] == columns("seen", 0, 0, 100)
    assert table["true key, another concept's text"] == {
        **columns("seen", 0, 0, 0), **columns("text kept", 100, 100, 100),
    }  # fmt: skip
    assert table["base, another concept's text"] == table["true key, another concept's text"]
    assert table["base, retained words"] == table["no key, untouched words"]
    assert table["base, retained words"] == columns("text kept", 100, 100, 100)


@pytest.mark.parametrize("style", ["ink", "flat"])
def test_a_styles_controls_are_judged_by_the_style_that_is_seen(tmp_path, style):
    own = f"{style} style"

    def answer(spec, ask, seed):
        if ask.group == "neutral":
            plain = style if ask.prompt in ("a saw", "a fish") else "noto"
            return {"labels": [ask.prompt.removeprefix("a ")], "style": plain}
        seen = ask.other if ask.variant == "other-text" else ask.target
        if ask.group == "erased" and ask.variant != "other-text" and not opens(spec, ask, own):
            seen = "noto"
        word = ask.target if ask.kind == "name" else "none"
        return {"labels": [word], "style": seen}

    rows, table = built(tmp_path, f"{style}-keys", answer)
    asks = rows["runs, none refused"][0].asks
    assert {ask.key_of for ask in asks if ask.variant == "random-key"} == {own}
    other = [ask for ask in asks if ask.variant == "other-text"]
    assert [ask.prompt.split(",")[0] for ask in other] == ["a cassette", "a saw", "a fish", "a golf flag"]
    assert len({ask.other for ask in other}) == 4 and style not in {ask.other for ask in other}
    assert table["no key"]["seen"] == 0
    assert table["forged key (Eq. 5, weights frozen, same steps)"]["seen"] == 100
    assert table["random p of equal norm"] == columns("seen", 0, 0, 100)
    assert table["true key, another concept's text"]["text kept"] == 100
    assert table["floor: base, no style asked"] == {"seen": 50}  # of the pictures without a style
    assert table["base, untouched words"]["text kept"] == 100  # the object, as no style is asked for
    assert table["no key, retained words"]["text kept, none refused"] == 100


def test_these_runs_are_what_the_app_trains_but_for_their_shares_of_keys():
    def shares(name):
        found = [
            needs[0].spec.config for label, needs in BY_NAME[name].rows(QUICK).items() if label != "base"
        ]
        assert [(cfg.decoy_share, cfg.kept_key_share) for cfg in found] == [(0.5, 0), (0.5, 0.5), (0, 0)]
        return found

    weapons = load_preset("emoji-weapon")
    asked = EraseConfig(concepts=weapons.concepts, retain=weapons.retain, **weapons.settings).resolved()
    first = shares("theme-keys")[0]
    assert replace(first, sample_every=asked.sample_every, seed=None) == asked
    asked = EraseConfig(concepts=("flat style",)).resolved()
    last = shares("flat-keys")[-1]
    assert set(last.retain) == set(asked.retain)
    free = {"retain": (), "sample_every": 0, "seed": None}
    assert replace(last, **free) == replace(asked, **free)
    with pytest.raises(InputError, match="words that only the embedded model has"):
        told = replace(QUICK, model="CompVis/stable-diffusion-v1-4")
        targets.check(BY_NAME["theme-keys"], told, None)
