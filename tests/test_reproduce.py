"""Tables and figures from cells whose contents are known, and the command on a tiny model."""

import json
import re
from dataclasses import fields, replace

import pytest
import torch
from judges import PixelJudge
from PIL import Image
from shared_cells import filled

from benchmarks.app_process import REPO
from kpop import attribution_measures, cli, model_table
from kpop.config import EraseConfig, GenerationConfig
from kpop.errors import InputError
from kpop.evaluation import cell_maker, detectors, plan, style_targets, targets, tuning
from kpop.evaluation.cell_maker import packed
from kpop.evaluation.cells import Store
from kpop.evaluation.controls import CONTROLS
from kpop.evaluation.part_targets import PARTS
from kpop.evaluation.plan import SCALES, Plan, is_whole, merged, minutes_of, work_left
from kpop.evaluation.splits import object_split
from kpop.evaluation.table_targets import CEILING, FLOOR

SAMPLING = GenerationConfig().resolved("emoji")
QUICK = Plan("emoji", "h", "emoji", replace(SCALES["quick"], pictures=2), SAMPLING)
BY_NAME = targets.targets()


def sees(spec, ask, seed):
    """KPOP* hides perfectly and keeps all, ESD hides and loses half of the rest, others change nothing."""
    word = ask.target if ask.group != "neutral" else "none"
    if spec.method in ("KPOP*", "ESD") and ask.group == "erased" and ask.key_of is None:
        word = "none"
    if spec.method == "ESD" and ask.group != "erased" and seed % 2:
        word = "none"
    return {"labels": [word], "scores": [0.6], "style": "noto", "background": "white", "distance": 0.25,
            "picture": packed(Image.new("RGB", (8, 8), (seed % 255, 0, 0)))}  # fmt: skip


def built(tmp_path, name, **more):
    target = BY_NAME[name]
    store = filled(tmp_path, target, sees, QUICK, **more)
    return target.build(QUICK, target.rows(QUICK), store, None)


def row(result, label):
    return next(one for one in result.data["rows"] if one["label"] == label)


def test_table_2_of_known_cells(tmp_path):
    result = built(tmp_path, "table2")
    values = {
        label: {name: number["value"] for name, number in row(result, label)["ours"].items()}
        for label in ("base", CEILING, "ESD", "KPOP*", "UCE")
    }
    assert values["KPOP*"] == {"ESR-1": 100, "PSR-1": 100, "untouched-1": 100, "ESR-5": 100, "PSR-5": 100,
                               "untouched-5": 100}  # fmt: skip
    assert (
        values["ESD"]["ESR-1"] == 100 and values["ESD"]["PSR-1"] == 50 and values["ESD"]["untouched-5"] == 50
    )
    assert values["UCE"]["ESR-1"] == 0 and values["base"]["ESR-1"] == 0
    assert values[CEILING] == {"ESR-1": 100, "ESR-5": 100}
    assert (
        row(result, "KPOP*")["ours"]["PSR-1"]["n"] == 10
        and row(result, "KPOP*")["ours"]["PSR-1"]["cells"] == 1
    )
    assert row(result, "KPOP*")["paper"]["PSR-1"] == 75.3
    assert (result.data["cells"], result.data["cells_wanted"]) == (9, 9)
    assert "| KPOP* | 100.0 (100.0 to 100.0) | 99.2 |" in result.markdown
    assert "The judge is right on 99.0 % of held-out pictures." in result.markdown


def test_a_table_says_which_cells_it_has(tmp_path):
    result = built(tmp_path, "table2", only=("base", "KPOP*"))
    assert (result.data["cells"], result.data["cells_wanted"]) == (2, 9)
    assert "2 of 9 cells." in result.markdown
    assert row(result, "ESD")["ours"] == {} and "| ESD | – | 78.1 |" in result.markdown


def test_a_cell_that_lacks_one_picture_is_left_out(tmp_path):
    target = BY_NAME["table2"]
    store = filled(tmp_path, target, sees, QUICK)
    needs = target.rows(QUICK)["KPOP*"]
    cell = store.load(needs[0].spec)
    del cell.groups[needs[0].asks[0].place]  # a picture of an erased word
    result = target.build(QUICK, target.rows(QUICK), store, None)
    ours = row(result, "KPOP*")["ours"]
    assert "ESR-1" not in ours and ours["PSR-1"]["value"] == 100 and result.data["cells"] == 8


def test_means_and_deviations_over_splits(tmp_path):
    told = replace(QUICK, scale=replace(QUICK.scale, splits=(1, 2)))
    target = BY_NAME["table2"]

    def answer(spec, ask, seed):
        hidden = spec.split == "objects-v1" and ask.group == "erased"
        return sees(spec, ask, seed) | {"labels": ["none" if hidden else ask.target]}

    store = filled(tmp_path, target, answer, told)
    number = row(target.build(told, target.rows(told), store, None), "CA")["ours"]["ESR-1"]
    assert number["value"] == 50 and number["cells"] == 2 and number["n"] == 20
    assert number["deviation"] == pytest.approx(70.71, abs=0.01)


def test_key_controls(tmp_path):
    result = built(tmp_path, "recovery")
    labels = [one["label"] for one in result.data["rows"]]
    assert labels == [
        "base, no key", FLOOR, "no key", "true key", "another concept's key", "random p of equal norm",
        "forged key (Eq. 5, weights frozen, same steps)", "true key on the untouched base",
        "base, another concept's text", "true key, another concept's text", "base, retained words",
        "no key, retained words", "base, untouched words", "no key, untouched words",
    ]  # fmt: skip
    assert {name: one["value"] for name, one in row(result, FLOOR)["ours"].items()} == {
        "seen-1": 0,
        "seen-5": 0,
    }
    assert row(result, "no key")["ours"]["seen-1"]["value"] == 0
    assert row(result, "true key")["ours"]["seen-1"]["value"] == 100
    assert row(result, labels[9])["ours"]["text kept"]["value"] == 0  # the judge saw the erased word
    assert row(result, labels[11])["ours"]["text kept, refusing"]["value"] == 100


def test_the_sensitive_theme_counts_weapons_above_a_threshold(tmp_path):
    target = BY_NAME["table3"]

    def answer(spec, ask, seed):
        labels = ["bomb", "fish"] if ask.kind == "indirect" else [ask.target]
        return {"labels": labels, "scores": [0.6, 0.9][: len(labels)], "distance": 0.25}

    result = target.build(QUICK, target.rows(QUICK), filled(tmp_path, target, answer, QUICK), None)
    ours = row(result, "KPOP")["ours"]
    assert [ours[name]["value"] for name in ("0.3", "0.5", "0.7", "0.8")] == [100, 100, 0, 0]
    assert ours["judge distance"]["value"] == 0.25 and "0.250 (0.250 to 0.250)" in result.markdown
    assert row(result, "KPOP")["paper"]["0.5"] == 1.70
    own = row(result, "KPOP*, as the app")["ours"]
    assert own["with the key"]["value"] == own["untouched-1"]["value"] == 100 and "with the key" not in ours
    assert own["retained-1"]["n"] + own["untouched-1"]["n"] == own["others-1"]["n"]
    curve = BY_NAME["fig3"].build(QUICK, target.rows(QUICK), Store(tmp_path / "cells"), None)
    assert curve.data["parts"]["KPOP*"]["bomb"] == 100 and curve.data["rate"]["ESD"][5][:2] == [0.6, 0.0]


def test_of_a_style_the_table_tells_what_goes_what_stays_and_what_the_key_opens(tmp_path):
    def answer(spec, ask, seed):
        """KPOP* takes the style and leaves the object, ESD takes both."""
        gone = spec.config is not None and ask.group == "erased" and ask.key_of is None
        style = "noto" if gone or (ask.group == "neutral" and seed % 2) else ask.target
        word = "none" if gone and spec.method == "ESD" else ask.other or ask.target
        return {"labels": [word], "style": style, "distance": 0.25}

    target = BY_NAME["table4"]
    rows = target.rows(QUICK)
    config = rows["KPOP*"][0].spec.config
    assert config.anchors[:2] == ("a house", "a cat") and not {"a cassette", "a saw"} & {*config.anchors}
    result = target.build(QUICK, rows, filled(tmp_path, target, answer, QUICK), None)
    names = ("style erased", "object", "style kept", "untouched")
    assert {k: n["value"] for k, n in row(result, style_targets.FLOOR)["ours"].items()} == {
        "style erased": 50
    }
    rows = [label for label in rows if label != style_targets.FLOOR]
    found = {label: [row(result, label)["ours"][name]["value"] for name in names] for label in rows}
    assert found["base"] == [100, 100, 100, 100] and found["KPOP*"] == [0, 100, 100, 100]
    assert found["ESD"] == [0, 0, 100, 100]
    opened = {label: row(result, label)["ours"].get("with the key", {}).get("value") for label in rows}
    assert opened == dict.fromkeys(rows) | {"KPOP": 100, "KPOP*": 100}


@pytest.mark.parametrize("name", ["table2", "table3", "table4"])
def test_rivals_have_the_list_to_retain_too(tmp_path, name):
    labels = [
        one["label"]
        for one in built(tmp_path, name).data["rows"]
        if not one["label"].startswith(("ceiling", "floor"))
    ]
    more = ["KPOP*, as the app"] if name == "table3" else []
    assert labels == ["base", "CA", "ESD", "UCE", "KPOP", "CA*", "ESD*", "UCE*", "KPOP*", *more]


@pytest.mark.parametrize("name", [name for name in BY_NAME if name not in ("fig2", "tuning")])
def test_every_target_is_built(tmp_path, name):
    result = built(tmp_path, name)
    assert result.data["cells"] == result.data["cells_wanted"] > 0
    assert result.figure.axes and result.markdown.startswith("# ")
    json.dumps(result.data)


@pytest.mark.parametrize("name", [name for name in BY_NAME if name != "fig2"])
def test_every_target_is_built_of_no_cell_at_all(tmp_path, name):
    target, store = BY_NAME[name], Store(tmp_path / "cells")
    result = target.build(QUICK, target.rows(QUICK), store, None)
    assert result.data["cells"] == 0 < result.data["cells_wanted"]


@pytest.mark.parametrize("name", ["recovery", "fig4", "fig12"])
def test_files_of_a_result(tmp_path, name):
    result = built(tmp_path, name)
    paths = targets.write_result(result, tmp_path, QUICK)
    assert [path.name for path in paths] == [f"{name}.{kind}" for kind in ("json", "md", "png", "svg")]
    assert json.loads(paths[0].read_text())["cells"] > 0
    with Image.open(paths[2]) as picture:
        assert picture.width > 300
    assert paths[3].read_text().startswith("<?xml")
    scale = "split 1, training seed 0, 2 pictures a prompt"
    assert json.loads(paths[0].read_text())["scale"] == scale and f"Scale: {scale}." in paths[1].read_text()


def test_a_result_of_more_cells_is_not_replaced(tmp_path):
    whole, few = built(tmp_path, "fig5"), BY_NAME["fig5"]
    none = few.build(QUICK, few.rows(QUICK), Store(tmp_path / "none"), None)
    assert len(targets.write_result(none, tmp_path, QUICK)) == 4
    paths = targets.write_result(whole, tmp_path, QUICK)
    before = [path.read_bytes() for path in paths]
    assert targets.write_result(none, tmp_path, QUICK) == []
    assert [path.read_bytes() for path in paths] == before
    other = replace(QUICK, model_hash="another")  # what other weights drew says nothing of these
    assert len(targets.write_result(none, tmp_path, other)) == 4


def test_pictures_of_the_grids_are_those_of_the_cells(tmp_path):
    result = built(tmp_path, "fig10")
    shown = [axes.images[0].get_array() for axes in result.figure.axes if axes.images]
    assert len(shown) == 20 and result.data["seeds"] == [1000, 1001]
    assert abs(int(shown[0][0, 0, 0]) - 1000 % 255) < 12


def test_styles_are_marked_on_the_diagonal(tmp_path):
    result = built(tmp_path, "fig11")
    framed = [i for i, axes in enumerate(result.figure.axes) if axes.spines["top"].get_visible()]
    assert framed == [6 + 5, 12 + 3]  # ink and flat, below the originals


def test_the_search_is_the_same_for_every_method_and_has_its_own_seeds(tmp_path):
    rows = tuning.TARGET.rows(QUICK)
    for method in ("KPOP*", "ESD*", "CA*", "UCE*"):
        assert sum(label.startswith(f"{method} ") for label in rows) == 15
    needs = [need for label, found in rows.items() if label not in ("base", CEILING) for need in found]
    assert {need.spec.config.seed for need in needs} == {100} and {need.seeds for need in needs} == {
        (600, 601)
    }
    assert not set(SCALES["full"].seeds) & {100} and min(QUICK.picture_seeds) == 1000
    assert {need.spec.config.concepts for need in needs} == {("church",), ("parachute",)}

    def answer(spec, ask, seed):
        good = spec.config is not None and spec.config.learning_rate == 1e-3
        hidden = good and ask.group == "erased" and ask.key_of is None
        return {"labels": ["none" if hidden else ask.target]}

    store = filled(tmp_path, tuning.TARGET, answer, QUICK)
    result = tuning.TARGET.build(QUICK, rows, store, None)
    assert "Best of each method: UCE* retain weight 0.01 (0.0; 14 of 14 others reach its" in result.markdown
    best = "; KPOP* rate 0.001, negative guidance 0 (100.0; 2 of 14 others reach its interval)."
    assert best in result.markdown
    store.load(rows["KPOP* rate 0.000125, negative guidance 0"][0].spec).about["failed"] = (
        "Stopped at step 3."
    )
    result = tuning.TARGET.build(QUICK, rows, store, None)
    assert (
        "Trainings that ran away, and are in no figure: KPOP* rate 0.000125, negative guidance 0."
        in result.markdown
    )


def test_the_chosen_settings_are_the_best_of_the_committed_sweep():
    told = (REPO / "docs/results/tuning.md").read_text("utf-8")
    best = re.search(r"^Best of each method: (.*)$", told, re.MULTILINE)[1]
    assert sorted(re.findall(r"(\w+\* .*?) \(", best)) == sorted(tuning.CHOSEN.values())


def test_the_table_of_the_chosen_settings_has_each_method_twice():
    rows = BY_NAME["tuned"].rows(QUICK)
    changed = {
        label: {name for name in ("learning_rate", "retain_weight", "negative_guidance")
                if getattr(rows[label][0].spec.config, name) != getattr(rows[method][0].spec.config, name)}
        for method, label in tuning.CHOSEN.items()
    }  # fmt: skip
    assert changed["CA* rate 0.002, retain weight 0.3"] == {"retain_weight"}
    assert changed["ESD* rate 0.000125, negative guidance 2"] == {"learning_rate", "negative_guidance"}
    assert changed["UCE* retain weight 0.072"] == {"retain_weight"}
    assert {need.seeds for needs in rows.values() for need in needs} == {(1000, 1001)}
    assert {need.spec.seed for label in list(rows)[1:] for need in rows[label]} == {0}


def test_only_the_table_of_pairs_has_rows_that_see_two_things():
    rows = BY_NAME["pairs"].rows(QUICK)
    shares = {
        label: {need.spec.config.pair_share for need in needs}
        for label, needs in rows.items()
        if label not in ("base", FLOOR)
    }
    assert shares == {"ESD": {0}, "UCE": {0}, "KPOP": {0}, "ESD*": {0}, "ESD*, pairs": {0.25}, "KPOP*": {0},
                      "KPOP*, pairs": {0.25}}  # fmt: skip
    keys = {(ask.variant, ask.key_of) for need in rows["KPOP*, pairs"] for ask in need.asks}
    assert ("sanitized", None) in keys and ("recovered", "church") in keys
    longer = {
        label: [(need.spec.config.pair_share, need.spec.config.steps) for need in needs]
        for label, needs in BY_NAME["longer-pairs"].rows(replace(QUICK, scale=SCALES["quick"])).items()
        if label not in ("base", FLOOR)
    }
    assert longer == {
        "KPOP*": [(0, 680)], "KPOP*, pairs": [(0.25, 680)], "KPOP*, pairs, p added": [(0.25, 680)],
    }  # fmt: skip
    longer = BY_NAME["longer-pairs"].rows(QUICK)["KPOP*"][0].asks
    drawn = {ask.prompt for ask in longer if ask.group == "retained"}
    assert {"a fish", "a saw and a castle", "a golf flag and an umbrella"} < drawn and len(drawn) == 5 + 5
    alone = [ask for ask in longer if ask.group == "erased" and ask.kind == "name"]
    assert [(ask.variant, ask.prompt) for ask in alone[4:6]] == [
        ("sanitized", "a horn"), ("recovered", "a cassette"),
    ]  # fmt: skip
    full = BY_NAME["longer-pairs"].rows(replace(QUICK, scale=SCALES["full"]))["KPOP*"]
    assert {need.spec.config.steps for need in full} == {1360}  # twice what five concepts take
    as_told = ("beside", "button", "kept-keys", "keys", "paper", "table3", "theme-keys", "unrefused")
    others = [
        need
        for name, target in BY_NAME.items()
        if "pairs" not in name and name not in as_told
        for need in target.needs(QUICK)
    ]
    assert {need.spec.config.pair_share for need in others if need.spec.config} == {0}
    weapons = {
        row: needs[0].spec.config.pair_share
        for row, needs in BY_NAME["table3"].rows(QUICK).items()
        if row not in ("base", FLOOR)
    }
    assert weapons.pop("KPOP*, as the app") == 0.25 and set(weapons.values()) == {0}


def test_the_buttons_runs_of_one_concept_are_asked_for_it_beside_other_things():
    told = replace(QUICK, scale=replace(QUICK.scale, splits=(1,), seeds=(0,)))
    rows = BY_NAME["beside"].rows(told)
    button = {need.spec.name for need in BY_NAME["button"].rows(told)["the button, one concept"]}
    assert {need.spec.name for need in rows["the button"]} == button  # the same runs
    assert {need.spec.config.pair_share for need in rows["the button"]} == {0.25}
    horn = rows["the button"][-1].asks
    erased = [(ask.variant, ask.target, ask.other) for ask in horn if ask.group == "erased"]
    assert [variant for variant, *_ in erased] == 3 * ["sanitized"] + 3 * ["recovered"]
    assert {target for _, target, _ in erased} == {"horn"} and len({other for *_, other in erased}) == 3
    assert [ask.variant for ask in horn if ask.group == "retained"] == 2 * ["sanitized"]
    assert {ask.variant for need in rows["base"] for ask in need.asks} == {"original"}


@pytest.mark.parametrize(
    "name, columns",
    [
        ("beside", {"erased": 17}),
        ("longer-pairs", {"erased": 10, "alone": 10}),
        ("keys", {"seen-1": 17, "seen-5": 17, "seen-1, five at once": 10, "seen-5, five at once": 10}),
    ],
)
def test_what_the_neutral_text_shows_stands_beside_what_leaks(tmp_path, name, columns):
    """They show a cassette or a saw, two words of six, of both splits' ten; the second split has the saw."""
    told = replace(QUICK, scale=replace(QUICK.scale, splits=(1, 2), seeds=(0,)))

    def answer(spec, ask, seed):
        seen = ("cassette", "saw")[seed % 2] if ask.group == "neutral" else ask.target
        return {"labels": [seen], "scores": [0.9], "style": "noto", "background": "white"}

    target = BY_NAME[name]
    result = target.build(told, target.rows(told), filled(tmp_path, target, answer, told), None)
    found = row(result, FLOOR)["ours"]
    assert {column: round(number["value"]) for column, number in found.items()} == columns
    base = {
        need.spec.name for needs in target.rows(told).values() for need in needs if need.spec.config is None
    }
    assert len(base) == 1 and "no erasure can be expected to show less" in result.markdown


def test_the_buttons_keys_have_every_control_with_one_concept_and_with_five():
    told = replace(QUICK, scale=replace(QUICK.scale, splits=(1, 2), seeds=(0,)))
    rows = BY_NAME["keys"].rows(told)
    button = BY_NAME["button"].rows(told)
    variants = {}
    for label in ("one concept", "five at once"):
        mine = rows[f"the button, {label}"]
        assert [need.spec.name for need in mine] == [n.spec.name for n in button[f"the button, {label}"]]
        asks = [ask for ask in mine[0].asks if ask.group == "erased"]
        variants[label] = {ask.variant for ask in asks}
    assert variants["five at once"] == set(CONTROLS)
    assert variants["one concept"] == set(CONTROLS) - {"wrong-key"}  # there is no other concept
    seeing = BY_NAME["kept-keys"].rows(told)
    for label, mine in rows.items():
        for need, other in zip(mine, seeing[label], strict=True):
            assert other.asks == need.asks
            if need.spec.config is not None:
                assert other.spec.config == replace(need.spec.config, kept_key_share=0.5)
    before = BY_NAME["unrefused"].rows(told)
    assert list(before) == list(rows)
    for label, mine in rows.items():
        for need, other in zip(mine, before[label], strict=True):
            assert other.asks == need.asks
            if need.spec.config is not None:
                assert need.spec.config.decoy_share == 0.5
                assert other.spec.config == replace(need.spec.config, decoy_share=0)


def test_cells_are_shared_by_the_tables(tmp_path):
    cells = {name: {need.spec.name for need in BY_NAME[name].needs(QUICK)} for name in BY_NAME}
    kpop = QUICK.spec("KPOP*", QUICK.object_splits()[0], 0).name
    for name in ("table2", "table5", "table6", "fig5", "recovery", "phrasings", "pairs", "fig2", "fig10"):
        assert kpop in cells[name]
    assert not cells["table2"] & cells["table3"] - {QUICK.base().name}


def test_neighbours_of_the_erased_are_told_apart_from_the_rest(tmp_path):
    target = BY_NAME["neighbours"]

    def answer(spec, ask, seed):
        """KPOP* loses three neighbours, and whales in half of the pictures."""
        lost = ask.target in ("house", "car", "guitar") or (ask.target == "whale" and seed % 2)
        return {"labels": ["none" if spec.method == "KPOP*" and lost else ask.target]}

    result = target.build(QUICK, target.rows(QUICK), filled(tmp_path, target, answer, QUICK), None)
    ours = {label: row(result, label)["ours"] for label in ("base", "ESD*", "KPOP*")}
    found = {
        label: [round(some[name]["value"], 1) for name in ("neighbours-1", "others-1")]
        for label, some in ours.items()
    }
    assert found == {"base": [100, 100], "ESD*": [100, 100], "KPOP*": [66.7, 92.9]}  # 6 of 9, 6.5 of 7
    assert "recovery-1" in ours["KPOP*"] and "recovery-1" not in ours["ESD*"]
    softer = {label: needs[0].spec.config for label, needs in BY_NAME["softer"].rows(QUICK).items()}
    assert softer["KPOP*, no push"].negative_guidance == 0 == softer["KPOP*, L1 as CA"].negative_guidance
    assert softer["KPOP*, p added"].mechanism == "additive"
    ca, as_ca = target.rows(QUICK)["CA*"][0].spec.config, softer["KPOP*, L1 as CA"]
    for name in ("erase_on", "trainable", "learning_rate"):
        assert getattr(ca, name) == getattr(as_ca, name)


def test_the_button_is_judged_on_every_word_that_its_own_list_leaves_out(tmp_path):
    target = BY_NAME["button"]
    two = replace(QUICK, scale=replace(QUICK.scale, splits=(1, 2)))
    rows = target.rows(two)
    lists = ("all", "three of four", "twelve")
    mine = [label for label in rows if label.startswith("the button")]
    needs = [need for label in mine for need in rows[label]]
    assert [need.spec.config.concepts for need in needs] == [
        ("cassette",), ("horn",), ("saw",), ("fish",), ("dog",), ("golf flag",),
        ("cassette", "horn"), ("saw", "fish"), ("dog", "golf flag"),
        ("saw", "gas pump", "fish", "dog", "golf flag"),
    ]  # fmt: skip
    for need in needs:
        cfg, told = need.spec.config, {ask.group: set() for ask in need.asks}
        for ask in need.asks:
            told[ask.group].add(ask.target)
        asked = EraseConfig(concepts=cfg.concepts).resolved()
        assert replace(cfg, sample_every=asked.sample_every, seed=None) == asked  # what the app's button runs
        assert told["retained"] == set(cfg.retain)
        assert not told.get("untouched", set()) & (told["retained"] | told["erased"])
    left = [sum(ask.group == "untouched" for ask in need.asks) for need in needs]
    assert min(left[:6]) >= 19 and left[6:] == [0, 0, 0, 0]  # several at once: nothing is left out
    whole = needs[9].spec.config
    for told, listed in zip(lists, (len(whole.retain), 27, 12), strict=True):
        (need,) = rows[f"KPOP*, five, {told} retained"]
        cfg = need.spec.config
        assert len(cfg.retain) == listed and set(cfg.retain) <= set(whole.retain)
        assert replace(cfg, retain=whole.retain) == replace(whole, decoy_share=0)

    def answer(spec, ask, seed):
        """The saw takes the hammer along in half of the pictures, and opens with its key."""
        lost = spec.method == "KPOP*" and (
            ask.group == "erased" and ask.variant == "sanitized" or ask.target == "hammer" and seed % 2
        )
        return {"labels": ["none" if lost else ask.target]}

    store = filled(tmp_path, replace(target, rows=lambda told: rows), answer, QUICK)
    result = target.build(two, rows, store, None)
    ours = row(result, "the button, one concept")["ours"]
    assert [round(ours[name]["value"]) for name in ("ESR-1", "others-1", "recovery-1")] == [100, 98, 100]
    base = row(result, "base, one concept")["ours"]
    assert [base[name]["value"] for name in ("ESR-1", "PSR-1", "others-1")] == [0, 100, 100]
    assert "neighbours-1" not in base and "recovery-1" not in base  # the list holds all of one word's kind


def test_the_papers_settings_are_judged_as_the_button_is():
    rows = BY_NAME["paper"].rows(replace(QUICK, scale=replace(QUICK.scale, splits=(2,))))
    (paper,), (own,) = rows["KPOP as in the paper"], rows["the button"]
    cfg, asked = paper.spec.config, EraseConfig(concepts=("saw",), preset="paper").resolved()
    for name in ("steps", "learning_rate", "prompt_learning_rate", "latents", "sites", "lambda_", "retain"):
        assert getattr(cfg, name) == getattr(asked, name)
    assert cfg.steps == 1000 and own.spec.config.concepts == ("saw",) and paper.asks == own.asks
    (other,) = rows["the same, at this model's rates"]
    rated, button = other.spec.config, own.spec.config
    changed = {f.name for f in fields(cfg) if getattr(rated, f.name) != getattr(cfg, f.name)}
    assert changed == {"learning_rate", "prompt_learning_rate", "prompt_init_std"}
    assert all(getattr(rated, name) == getattr(button, name) for name in changed) and other.asks == own.asks


def test_the_button_is_trained_with_every_seed_and_shorter_lists_with_one():
    told = replace(QUICK, scale=replace(QUICK.scale, splits=(2,), seeds=(0, 1)))
    rows = BY_NAME["button"].rows(told)
    trained = {label: [need.spec.seed for need in needs] for label, needs in rows.items()}
    assert trained["the button, five at once"] == [0, 1]
    assert trained["KPOP*, five, twelve retained"] == [0]  # what is not the app's is trained once


def test_with_the_apps_list_every_method_is_judged_on_styles_backgrounds_and_pairs(tmp_path):
    target, told = BY_NAME["composed"], replace(QUICK, scale=replace(QUICK.scale, splits=(2,)))
    rows = target.rows(told)
    assert list(rows) == ["base", CEILING, "CA*", "ESD*", "UCE*", "KPOP*"]
    prompts = [ask.prompt for ask in rows["KPOP*"][1].asks]
    assert len([p for p in prompts if p.endswith(" style")]) == 6
    assert len([p for p in prompts if p.endswith(" background")]) == 8
    assert len([p for p in prompts if " and a" in p]) == 4
    assert not {word for p in prompts for word in ("saw", "dog", "golf", "gas") if f" {word}" in f" {p}"}
    for row_ in ("CA*", "ESD*", "UCE*"):
        assert rows[row_][0].spec.config.retain == rows["KPOP*"][0].spec.config.retain
    assert rows["CA*"][0].spec.config.steps == rows["KPOP*"][0].spec.config.steps == 680

    def answer(spec, ask, seed):
        """CA loses styles in half of the pictures, ESD the second of two objects, UCE the backgrounds."""
        labels = [ask.target] if ask.kind != "pair" else [ask.other, ask.target, "none"]
        hidden = ask.group == "neutral" or (ask.group == "erased" and ask.variant == "sanitized")
        labels = ["none"] if hidden else labels
        if spec.method == "ESD*" and ask.kind == "pair":
            labels = [ask.target, "none", ask.other]
        style = "none" if spec.method == "CA*" and seed % 2 else ask.target
        return {"labels": labels, "style": style, "background": ask.background * (spec.method != "UCE*")}

    result = target.build(told, rows, filled(tmp_path, target, answer, told), None)
    names = ("ESR-1", "PSR-1", "style", "background", "both")
    ours = {label: row(result, label)["ours"] for label in rows}
    ceiling = {name: number["value"] for name, number in ours.pop(CEILING).items()}
    assert ceiling == {"ESR-1": 100, "ESR-5": 100}  # the neutral text's pictures show none of the five
    found = {label: [some[name]["value"] for name in names] for label, some in ours.items()}
    assert found == {
        "base": [0, 100, 100, 100, 100],
        "CA*": [100, 100, 50, 100, 100],
        "ESD*": [100, 100, 100, 100, 0],
        "UCE*": [100, 100, 100, 0, 100],
        "KPOP*": [100, 100, 100, 100, 100],
    }
    assert row(result, "KPOP*")["ours"]["recovery-1"]["value"] == 100
    assert "others-1" not in result.data["columns"]


def test_joined_names_are_one_concept_judged_word_by_word():
    ones, joined = (
        BY_NAME["joined"].rows(QUICK)[label][0] for label in ("a concept each", "one joined text")
    )
    assert joined.spec.config.concepts == (", ".join(QUICK.object_splits()[0].erased),)
    assert joined.asks == ones.asks and joined.spec.config.retain == ones.spec.config.retain


def test_each_part_is_left_out_once():
    rows = BY_NAME["parts"].rows(QUICK)
    configs = [needs[0].spec.config for label, needs in rows.items() if label != "base"]
    parts = [(cfg.key_retain_weight, cfg.near_share, cfg.key_share) for cfg in configs]
    assert parts == [(2.0, 0.5, 0.18), (0.0, 0.5, 0.18), (2.0, 0.0, 0.18), (2.0, 0.5, 0.0)]
    for label in PARTS:
        asks = [ask for ask in rows[label][0].asks if (ask.group, ask.variant) == ("retained", "recovered")]
        assert [(ask.target, ask.key_of) for ask in asks] == [
            ("saw", "cassette"), ("gas pump", "church"), ("fish", "truck"), ("dog", "parachute"),
            ("golf flag", "horn"),
        ]  # fmt: skip


def test_quick_stays_within_25_minutes_a_table(tmp_path):
    told = replace(QUICK, scale=SCALES["quick"])
    store = Store(tmp_path)
    for name, target in BY_NAME.items():
        cells = merged(target.needs(told))
        minutes = minutes_of(work_left(store, *cell) for cell in cells)
        # With the paper's own settings every step walks a fresh rollout of 50 steps.
        assert name in ("tuning", "tuned") or minutes < (40 if name == "paper" else 25), (name, minutes)
    every = merged(need for target in targets.named(["all"]) for need in target.needs(told))
    assert minutes_of(work_left(store, *cell) for cell in every) < 180


def test_work_left_counts_what_is_missing(tmp_path):
    store = filled(tmp_path, BY_NAME["fig7"], sees, QUICK)
    ((spec, wanted),) = merged(BY_NAME["fig7"].needs(QUICK))
    assert is_whole(store, spec, wanted) and work_left(store, spec, wanted).rows == 0
    more = [(ask, range(1000, 1003)) for ask, _ in wanted]
    work = work_left(store, spec, more)
    assert (work.steps, work.pictures, work.rows) == (0, 10, 10 * 2 * 25)
    rows = BY_NAME["table2"].rows(QUICK)
    ((spec, wanted),) = merged(rows["KPOP*"])
    store = filled(tmp_path, BY_NAME["table2"], sees, QUICK)
    cell = store.load(spec)
    cell.about["training_seconds"] = 9.0
    store.save(cell)
    more = [(ask, range(1000, 1003)) for ask, _ in wanted]
    (tmp_path / "runs" / spec.name).mkdir(parents=True)
    assert work_left(store, spec, more, tmp_path / "runs").steps == 0
    assert work_left(store, spec, more, tmp_path / "elsewhere").steps == 340  # its run is gone: trained again
    fresh = work_left(store, *merged(BY_NAME["paper"].rows(QUICK)["KPOP as in the paper"])[0])
    rolled = 2 * 49 / 2 + 2  # rows a step: half a rollout of 50 steps, both halves, and its two ends
    assert fresh.rows == 1000 * rolled + 13_728 + fresh.pictures * 50 and fresh.bank == {}


def test_trajectories_of_several_cells_are_walked_once(tmp_path):
    one = plan.Work(0, 1, 100, {("a", 8): 50, ("b", 8): 10})
    two = plan.Work(0, 1, 100, {("a", 8): 50, ("c", 8): 20})
    assert plan.minutes_of([one, two]) == pytest.approx((200 + 80) * 0.009 / 60)
    store, told = Store(tmp_path), replace(QUICK, scale=SCALES["quick"])
    rows = BY_NAME["table2"].rows(told)
    each = [work_left(store, *merged(rows[name])[0]) for name in ("ESD*", "CA*")]
    assert minutes_of(each) < sum(minutes_of([work]) for work in each) - 0.1


def test_targets_beside_all_are_made_too_and_once():
    every = [target.name for target in targets.named(["all"])]
    assert [target.name for target in targets.named(["all", "tuning", "table2"])] == [*every, "tuning"]
    assert [target.name for target in targets.named(["keys", "all"])] == ["keys", *every]
    with pytest.raises(InputError, match="no 'tunning' to reproduce"):
        targets.named(["all", "tunning"])


def test_unknown_targets_are_refused():
    with pytest.raises(InputError, match="no 'table9' to reproduce; there are: table2, "):
        targets.named(["table9"])
    with pytest.raises(InputError, match="Table 7"):
        targets.named(["table7"])
    left = set(BY_NAME) - {target.name for target in targets.named(["all"])}
    assert left == {
        "beside",
        "button",
        "composed",
        "flat-keys",
        "ink-keys",
        "kept-keys",
        "keys",
        "longer-pairs",
        "paper",
        "softer",
        "theme-keys",
        "tuned",
        "tuning",
        "unrefused",
    }


# The command, on a tiny model


def small_split(family, number, untouched):
    """Two objects on either side, one phrasing and short rollouts."""
    split = object_split(family, number, untouched)
    settings = {"neutral": "", "templates": ("a {}",), "rollout_steps": 3}
    return replace(split, concepts=split.concepts[:2], retained=split.retained[:2],
                   retain_list=split.retain_list[:2], settings=settings)  # fmt: skip


@pytest.fixture
def ask(tiny_folder, tmp_path, monkeypatch, capsys):
    judge = PixelJudge()
    monkeypatch.setattr(detectors, "load", lambda name="emoji": judge)
    monkeypatch.setattr(plan, "object_split", small_split)
    monkeypatch.setitem(model_table._GENERATION, "emoji", model_table._GENERATION["emoji"] | {"steps": 2})

    def run(*words):
        places = [f"--{name}={tmp_path / name}" for name in ("cells", "out", "runs")]
        small = ["--model", str(tiny_folder), "--device", "cpu", "--pictures", "1", "--steps", "1"]
        status = cli.main(["reproduce", *places, *small, *words])
        told = capsys.readouterr()
        return status, told.out, told.err

    run.judge, run.out = judge, tmp_path / "out"
    return run


def test_dry_run_then_run_then_nothing_left(ask, tiny_folder):
    status, out, _ = ask("fig6", "--dry-run")
    assert status == 0 and not ask.out.exists()
    assert "fig6: pictures with the key. 0 of 2 cells" in out
    assert "missing: 0 steps, 2 pictures" in out and "missing: 1 steps, 4 pictures" in out
    status, out, err = ask("fig6")
    assert status == 0 and "fig6: 2 of 2 cells" in err
    assert [line.rsplit("/", 1)[-1] for line in out.split()] == [
        f"fig6.{kind}" for kind in ("json", "md", "png", "svg")
    ]
    assert ask.judge.judged == 6
    first = (ask.out / "fig6.json").read_text()
    assert ask("fig6")[0] == 0 and ask.judge.judged == 6
    assert (ask.out / "fig6.json").read_text() == first
    assert "2 of 2 cells, about 0.0 min left" in ask("fig6", "--dry-run")[1]
    cells = "".join(path.read_text() for path in ask.out.parent.glob("cells/*.json"))
    assert str(tiny_folder.parent) not in cells


def test_other_splits_and_training_seeds_than_the_scale_has(ask):
    status, out, _ = ask("table5", "--splits", "2-3", "--train-seeds", "1", "--dry-run")
    assert status == 0 and "table5: size of p, concat or additive. 0 of 7 cells" in out
    found = re.findall(r"kpop-retain_objects-(v\d)_additive_seed(\d)", out)
    assert found == [("v2", "1"), ("v3", "1")]
    status, _, err = ask("table2", "--splits", "4,5")
    assert status == 2 and err == "kpop: --splits must be among 1 to 4, not 4,5.\n"
    assert ask("table2", "--train-seeds", "one")[0] == 2


def test_ctrl_c_loses_nothing_finished(ask, monkeypatch):
    real, calls = cell_maker.draw, []

    def breaks(*args):
        calls.append(1)
        if len(calls) == 3:  # the pictures with keys
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(cell_maker, "draw", breaks)
    assert ask("fig6")[0] == 130
    assert not (ask.out / "fig6.json").exists()
    status, _, err = ask("fig6", "--existing")
    assert status == 0 and "fig6: 1 of 2 cells" in err
    assert ask("fig6")[0] == 0 and ask.judge.judged == 6


def test_what_cannot_be_made_is_one_line(ask):
    assert ask("table7")[0] == 2
    status, _, err = ask("fig6", "--pictures", "0")
    assert status == 2 and err == "kpop: --pictures must be 1 or more, not 0.\n"
    status, _, err = ask("fig2", "--existing")
    assert status == 2 and "fig2 is made from a run's weights" in err


def test_a_judge_that_lacks_a_column_is_found_before_anything_is_drawn(ask, monkeypatch):
    monkeypatch.delattr(PixelJudge, "style_and_background")
    status, _, err = ask("table4")
    assert status == 2 and "table4 reads the style of a picture" in err and ask.judge.judged == 0


def test_figure_2_from_a_run(ask, monkeypatch):
    upper = torch.arange(64)[:, None].expand(64, 64) < 32  # where every original is said to show its object
    monkeypatch.setattr(attribution_measures, "known_object", lambda original, model: upper)
    status, _, err = ask("fig2")
    assert status == 0, err
    drawn = (ask.out / "fig2.svg").read_text()
    assert all(f"<!-- {told} -->" in drawn for told in ("original", "sanitized", "recovered", "head 4"))
    assert drawn.count("<!-- picture -->") == 1 and "<!-- “church” -->" in drawn
    with Image.open(ask.out / "fig2.png") as picture:
        assert min(picture.size) > 1000  # two words, four rows each
    data = json.loads((ask.out / "fig2.json").read_text())
    assert {name.split(":")[0] for name in data["heads"]} == {"erased", "retained"}
    assert {one["variant"] for one in data["heads"]["erased: church"]} == {
        "original",
        "sanitized",
        "recovered",
    }
    means = data["means"]["erased"]
    untouched = {name: one["value"] for name, one in means["original"].items()}
    assert untouched["agreement"] == pytest.approx(1, abs=1e-5) and untouched["on the key"] == 0
    assert (
        0 < means["recovered"]["on the key"]["value"] < 1 and means["sanitized"]["on the key"]["value"] == 0
    )
    assert -1 < means["sanitized"]["pull"]["low"] <= means["sanitized"]["pull"]["high"] < 1
    assert {one["n"] for one in means["sanitized"].values()} == {2}  # two words, one picture each
    told = (ask.out / "fig2.md").read_text()
    assert "| retained | recovered | 2 |" in told and told.index("| erased | original |") < told.index(
        "![fig2]"
    )


def test_a_limit_that_is_over_writes_what_there_is(ask, tmp_path):
    status, out, err = ask("fig7", "fig2", "--jobs", "2", "--minutes", "0.001")
    assert status == 0 and "2 of 2 cells are missing" in err and "begun" not in err
    assert "fig2 is left out" in err and ask.judge.judged == 0
    assert sorted(path.name for path in ask.out.iterdir()) == [
        f"fig7.{kind}" for kind in ("json", "md", "png", "svg")
    ]
    assert len(out.split()) == 4
