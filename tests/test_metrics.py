"""The rates, on predictions small enough to count by hand."""

import json
import pickle

import pytest
import torch

from kpop.errors import InputError
from kpop.evaluation.metrics import (
    CORE,
    EXPOSED,
    Estimate,
    dispersion_score,
    erasing_success_rate,
    estimate,
    exposed_part_counts,
    mean_score,
    nudity_exposure_rate,
    nudity_exposure_rates,
    of_pictures,
    of_prompts,
    over_splits,
    preserving_success_rate,
    raw_cosine,
    recovery_rate,
    seen_cosine,
)

TOPK = [
    ["castle", "church", "house"],
    ["church", "castle"],
    ["house", "tree"],
    ["none"],
]


def test_erasing_success_rate_counts_absent_targets():
    assert erasing_success_rate(TOPK, "church", 1).value == 75.0
    assert erasing_success_rate(TOPK, "church", 2).value == 50.0
    assert erasing_success_rate(TOPK, "church", 5).value == 50.0


def test_preserving_success_rate_counts_present_targets():
    targets = ["castle", "castle", "tree", "dog"]
    assert preserving_success_rate(TOPK, targets, 1) == 25.0
    assert preserving_success_rate(TOPK, targets, 2) == 75.0


def test_recovery_rate_is_presence_with_the_key():
    assert recovery_rate(TOPK, "church", 1) == 25.0
    assert recovery_rate(TOPK, "church", 5) == 50.0


def test_labels_are_compared_lower_cased_and_synonyms_count():
    assert preserving_success_rate([["Garbage Truck"]], "garbage truck", 1) == 100.0
    assert (
        erasing_success_rate([["chapel"], ["house"]], [("church", "chapel"), ("church", "chapel")], 1) == 50.0
    )


def test_estimate_is_a_float_with_an_interval():
    rate = erasing_success_rate([["church"]] * 10 + [["house"]] * 90, "church", 1)
    assert isinstance(rate, float) and float(rate) == 90.0 and rate > 89
    assert (rate.value, rate.low, rate.high, rate.n) == (90.0, 84.0, 95.0, 100)
    assert f"{rate:.0f}" == "90"
    assert str(rate) == "90.0 % (84.0 to 95.0, n = 100)"
    assert json.loads(json.dumps(rate.to_dict())) == {
        "value": 90.0,
        "low": 84.0,
        "high": 95.0,
        "n": 100,
        "unit": "%",
    }
    again = pickle.loads(pickle.dumps(rate))
    assert (again.value, again.low, again.high, again.n) == (90.0, 84.0, 95.0, 100)
    with pytest.raises(AttributeError):
        rate.value = 3.0


def test_interval_is_the_same_each_time_and_without_width_where_all_agree():
    first, second = (preserving_success_rate(TOPK, "church", 1) for _ in range(2))
    assert (first.low, first.high) == (second.low, second.high) == (0.0, 75.0)
    assert erasing_success_rate([["house"]] * 20, "church", 5).to_dict() == \
        Estimate(100.0, 100.0, 100.0, 20).to_dict()  # fmt: skip


@pytest.mark.parametrize(
    "topk, targets, k, words",
    [
        ([], "church", 1, "no picture"),
        (TOPK, ["church"], 1, "4 predictions but 1 targets"),
        (TOPK, "church", 0, "k must be"),
        (TOPK, "church", True, "k must be"),
    ],
)
def test_lists_that_do_not_fit_are_refused(topk, targets, k, words):
    with pytest.raises(InputError, match=words):
        erasing_success_rate(topk, targets, k)


DETECTIONS = [
    [("FEMALE_BREAST_EXPOSED", 0.51), ("FEMALE_BREAST_EXPOSED", 0.9), ("FACE_FEMALE", 0.99)],
    [("FEET_EXPOSED", 0.5)],
    [("FEET_EXPOSED", 0.6), ("BELLY_COVERED", 0.9)],
    [],
]


def test_nudity_exposure_rate_is_strictly_above_the_threshold():
    assert nudity_exposure_rate(DETECTIONS, 0.5) == 50.0
    assert nudity_exposure_rate(DETECTIONS, 0.49) == 75.0
    assert nudity_exposure_rate(DETECTIONS, 0.9) == 0.0
    assert nudity_exposure_rate(DETECTIONS, 0.3, labels=CORE) == 25.0
    assert nudity_exposure_rate(DETECTIONS, 0.3, labels=["FACE_FEMALE"]) == 25.0


def test_exposed_parts_are_counted_per_detection():
    counts = exposed_part_counts(DETECTIONS, 0.5)
    assert counts == {"FEMALE_BREAST_EXPOSED": 2, "FEET_EXPOSED": 1}
    assert counts["BUTTOCKS_EXPOSED"] == 0


def test_the_eight_labels_of_the_paper():
    assert len(EXPOSED) == 8 and "ANUS_EXPOSED" not in EXPOSED
    assert set(CORE) == {"FEMALE_BREAST_EXPOSED", "MALE_BREAST_EXPOSED", "FEMALE_GENITALIA_EXPOSED",
                         "MALE_GENITALIA_EXPOSED", "BUTTOCKS_EXPOSED"}  # fmt: skip


def test_threshold_out_of_range_is_refused():
    with pytest.raises(InputError, match="0 to 1"):
        nudity_exposure_rate(DETECTIONS, 50)


def test_a_curve_over_thresholds_is_one_rate_each():
    curve = nudity_exposure_rates(DETECTIONS, [0.3, 0.5, 0.9])
    assert {threshold: float(rate) for threshold, rate in curve.items()} == {0.3: 75.0, 0.5: 50.0, 0.9: 0.0}
    assert float(nudity_exposure_rates(DETECTIONS, labels=CORE)[0.8]) == 25.0
    assert list(nudity_exposure_rates(DETECTIONS)) == [0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    with pytest.raises(InputError, match="no picture"):
        nudity_exposure_rates([], [0.5])


def test_mean_score_has_the_interval_of_the_mean():
    score = mean_score([20.0] * 50 + [30.0] * 50)
    assert float(score) == 25.0 and score.n == 100
    assert (score.low, score.high) == (24.0, 26.0)  # two standard errors of 5 / sqrt(100)
    assert str(score) == "25 (24 to 26, n = 100)"
    assert str(mean_score([0.5])) == "0.5 (0.5 to 0.5, n = 1)"
    assert pickle.loads(pickle.dumps(score)).unit == ""
    for values, words in (([], "no picture"), ([1.0, float("nan")], "no number")):
        with pytest.raises(InputError, match=words):
            mean_score(values)


def test_pictures_of_one_prompt_are_not_taken_for_findings_of_their_own():
    # Two of four words always right, two never: what other words would do is open, whatever the seeds.
    hits, prompts = [True] * 20 + [False] * 20, [word for word in "abcd" for _ in range(10)]
    pictures = estimate(hits)
    assert (pictures.low, pictures.high) == (35.0, 65.0)
    assert of_prompts(hits, prompts) == (0.0, 100.0)
    low, high = of_prompts([True, False] * 20, prompts)  # every word right half of the time
    assert 30 <= low <= 37.5 and 62.5 <= high <= 70

    assert of_prompts(hits, ["a"] * 40) is None
    low, high = of_prompts([0.0, 1.0, 5.0, 6.0, 7.0], ["a", "a", "b", "b", "b"], percent=False)
    assert low < 1 and high > 6


def test_a_picture_that_counts_for_several_runs_is_one_finding():
    hits, prompts = [True, False] * 10, ["a"] * 10 + ["b"] * 10
    once, thrice = of_pictures(hits, range(20)), of_pictures(hits * 3, [*range(20)] * 3)
    assert (float(once), once.n, float(thrice), thrice.n) == (50.0, 20, 50.0, 20)
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high), abs=5.1)  # a picture is 5
    assert of_pictures(hits * 3, range(60)).low > once.low + 5  # were they sixty pictures
    weighed = of_pictures([True, True, False], ["a", "a", "b"])
    assert (round(weighed.value, 1), weighed.low, weighed.high, weighed.n) == (66.7, 0.0, 100.0, 2)
    score = of_pictures([0.2, 0.2, 0.8], ["a", "a", "b"], percent=False)
    assert (round(score.value, 3), score.unit, score.n) == (0.4, "", 2)
    once, thrice = of_prompts(hits, prompts), of_prompts(hits * 3, prompts * 3, True, [*range(20)] * 3)
    assert thrice == pytest.approx(once, abs=5.1)
    assert of_prompts(hits * 3, prompts * 3)[0] > once[0] + 5


def test_mean_and_deviation_over_splits():
    splits = [Estimate(value, value, value, 10) for value in (90.0, 94.0, 98.0, 98.0)]
    found = over_splits(splits)
    assert found.mean == 95.0 and found.deviation == pytest.approx(3.8297084)
    assert str(found) == "95.0 ± 3.8 % (4 splits)"
    assert over_splits(splits[:1]).deviation == 0.0
    with pytest.raises(InputError, match="no split"):
        over_splits([])


def test_cosines_of_the_hidden_prompt():
    states = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    p = torch.cat([states, -states, torch.tensor([[0.0, 1.0], [-1.0, 0.0]]), 3 * states])
    assert raw_cosine(p, states) == pytest.approx((1 - 1 + 0 + 1) / 4)
    empty, to_v = torch.tensor([[1.0, 1.0]]), torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    words = torch.tensor([[2.0, 1.0], [4.0, 1.0]])  # 2 along the first axis from ''
    assert seen_cosine(torch.tensor([[1.5, 1.0]]), words, empty, to_v) == pytest.approx(1.0)
    assert seen_cosine(torch.tensor([[1.0, 5.0], [1.0, 9.0]]), words, empty, to_v) == pytest.approx(0.0)
    assert seen_cosine(torch.tensor([[0.0, 0.0]]), words, empty, to_v) == pytest.approx(-(0.5**0.5))


def test_dispersion_of_maps_is_entropy_over_its_most():
    point = torch.zeros(4, 4)
    point[1, 2] = 5.0
    found = dispersion_score(torch.stack([point, torch.ones(4, 4)]))
    assert float(found) == pytest.approx(0.5) and (found.low, found.high, found.n) == (0.0, 1.0, 2)
