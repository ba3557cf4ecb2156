"""The evaluation protocol with a painter and a judge whose answers are known."""

import csv
import json

import pytest
from PIL import Image

from kpop.cli import main
from kpop.config import EraseConfig
from kpop.errors import InputError
from kpop.evaluation import protocol, report

CONFIG = EraseConfig(concepts=(("church", "chapel"),), retain=("castle",))
WORDS = ["church", "castle", "dog"]
SETTINGS = {"run": "r", "weights": "1"}


class Judge:
    """Reads the label that a picture carries."""

    labels = ["church", "castle", "dog", "none"]
    accuracy = 97.5

    def __init__(self):
        self.seen = 0

    def top_k(self, images, k):
        self.seen += len(images)
        return [image.info["labels"].split(",")[:k] for image in images]


def draw(prompt, seeds):
    """Sanitized churches are houses, in seed 3 castles before churches; dogs are drawn in even seeds only."""
    word = prompt.removeprefix("a ")

    def picture(labels):
        image = Image.new("RGB", (8, 8))
        image.info["labels"] = labels
        return image

    found = {"original": [], "sanitized": [], "recovered": []}
    for seed in seeds:
        plain = "none" if word == "dog" and seed % 2 else word
        found["original"].append(picture(plain))
        hidden = "castle,church" if seed == 3 else "none"
        found["sanitized"].append(picture(hidden if word == "church" else plain))
        found["recovered"].append(picture(plain))
    return found


def run(out, judge=None, **changes):
    asked = {"words": WORDS, "seeds": range(4), "settings": SETTINGS, "batch_size": 3, "draw": draw} | changes
    return protocol.evaluate(judge=judge or Judge(), out=out, **{"config": CONFIG} | asked)


def test_rates_by_word_and_role(tmp_path):
    found = run(tmp_path)
    assert [(result.word, result.role) for result in found.words] == [
        ("church", "erased"), ("castle", "retained"), ("dog", "untouched")
    ]  # fmt: skip
    church, _, dog = found.words
    assert {v: {k: float(rate) for k, rate in rates.items()} for v, rates in church.rates.items()} == {
        "original": {1: 100.0, 5: 100.0}, "sanitized": {1: 0.0, 5: 25.0}, "recovered": {1: 100.0, 5: 100.0}
    }  # fmt: skip
    assert dog.rates["sanitized"][1] == 50.0 and dog.rates["sanitized"][1].n == 4
    assert found.summary["erased"]["ESR-1"] == 100.0
    assert found.summary["erased"]["ESR-5"] == 75.0
    assert found.summary["erased"]["recovery-1"] == 100.0
    assert found.summary["retained"]["PSR-1"] == 100.0
    assert found.summary["untouched"]["base-1"] == found.summary["untouched"]["PSR-1"] == 50.0


def test_the_ceiling_is_what_the_base_shows_of_the_neutral_text(tmp_path):
    """Of the neutral text the base draws a chapel with seed 1, and a castle before a church with seed 2."""

    def leaking(prompt, seeds):
        found = draw(prompt, seeds)
        if prompt == "a picture":
            shown = {1: "chapel", 2: "castle,church"}
            for image, seed in zip(found["original"], seeds, strict=True):
                image.info["labels"] = shown.get(seed, "none")
            for image in [*found["sanitized"], *found["recovered"]]:
                image.info["labels"] = "none"
        return found

    judge = Judge()
    judge.labels = [*Judge.labels, "chapel"]
    found = run(tmp_path, judge, draw=leaking, neutral="a picture")
    last = found.words[-1]
    assert (last.word, last.role, last.prompt) == ("neutral text", "neutral", "a picture")
    seen = {v: [float(rate) for rate in rates.values()] for v, rates in last.rates.items()}
    assert seen == {"original": [25, 50], "sanitized": [0, 0], "recovered": [0, 0]}
    assert list(found.summary) == ["erased", "retained", "untouched"]
    erased = found.summary["erased"]
    assert (erased["ceiling-1"], erased["ceiling-5"]) == (75.0, 50.0) and erased["ceiling-1"].n == 4
    text = report.markdown(found, "t")
    assert "| neutral text | neutral | 25.0 (0.0 to 75.0) |" in text
    assert "| erased | ceiling-1 | 75.0 (25.0 to 100.0) | 4 |" in text and "- ceiling-k: base model" in text

    two = EraseConfig(concepts=(("church", "chapel"), "dog"), retain=("castle",))
    both = run(tmp_path / "two", judge, draw=leaking, neutral="a picture", config=two).summary["erased"]
    assert (both["ceiling-1"], both["ceiling-5"]) == (87.5, 75.0)  # a mean over the words, as ESR is
    assert both["ceiling-1"].n == both["ESR-1"].n == 8

    nothing_erased = run(tmp_path / "kept", judge, words=["castle"], neutral="a picture")
    assert [result.word for result in nothing_erased.words] == ["castle"]


def test_files(tmp_path):
    paths = report.write_report(run(tmp_path), tmp_path, "Run <r> | x")
    assert [path.name for path in paths] == [
        "metrics.json", "predictions.csv", "report.md", "detection.png", "detection.svg",
    ]  # fmt: skip
    metrics = json.loads(paths[0].read_text())
    assert metrics["judge_accuracy"] == 97.5
    assert metrics["words"][0]["sanitized"]["top5"]["value"] == 25.0
    assert metrics["summary"]["erased"]["ESR-1"] == {
        "value": 100.0,
        "low": 100.0,
        "high": 100.0,
        "n": 4,
        "unit": "%",
    }
    with open(paths[1], newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 3 * 4
    assert {"word": "church", "role": "erased", "prompt": "a church", "seed": "3", "variant": "sanitized",
            "labels": "castle|church"} in rows  # fmt: skip
    text = paths[2].read_text()
    assert "97.5 % of held-out pictures" in text and "# Run &lt;r> \\| x" in text
    assert "| church | erased | 100.0 (100.0 to 100.0) |" in text
    with Image.open(paths[3]) as picture:
        assert picture.format == "PNG" and picture.width > 600
    assert "judge: 97.5 %" in report.table(run(tmp_path))


def test_an_evaluation_that_was_broken_off_goes_on(tmp_path):
    calls = []

    def breaks(prompt, seeds):
        calls.append(seeds)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw(prompt, seeds)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, draw=breaks)
    with open(tmp_path / "predictions.csv", "a") as file:
        file.write("castle,retained,a castle,0,origi")
    judge, progress = Judge(), []
    found = run(tmp_path, judge, on_progress=lambda done, total: progress.append((done, total)))
    assert judge.seen == 3 * 4 * 2  # the church's pictures were kept
    assert progress[0] == (12, 36) and progress[-1] == (36, 36)
    assert found.to_dict() == run(tmp_path / "anew").to_dict()
    assert (tmp_path / "predictions.csv").read_text() == (tmp_path / "anew" / "predictions.csv").read_text()

    judge = Judge()
    run(tmp_path, judge, seeds=range(6))
    assert judge.seen == 3 * 3 * 2


def test_predictions_of_other_weights_are_not_mixed_in(tmp_path):
    run(tmp_path)
    with pytest.raises(InputError, match="other settings.*--out"):
        run(tmp_path, settings=SETTINGS | {"weights": "2"})
    with pytest.raises(InputError, match="other settings"):
        run(tmp_path, template="a photo of a {}")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"words": ["unicorn"]}, "cannot see 'unicorn'; it knows: church, castle, dog, none"),
        ({"words": []}, "at least one word"),
        ({"seeds": []}, "at least one word and one seed"),
        ({"template": "a church"}, "template must hold"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_drawing(tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        run(tmp_path / "out", **changes, draw=None)
    assert not (tmp_path / "out").exists()


def test_synonyms_of_a_concept_count_as_it():
    assert protocol.role_of("Chapel", CONFIG) == "erased"
    assert protocol.accepted_labels("chapel", CONFIG, Judge.labels) == ("church",)
    assert protocol.role_of("dog", CONFIG) == "untouched"


def test_words_are_not_drawn_by_several_processes(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["evaluate", "example-run", "--out", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and not (tmp_path / "out").exists()
    assert "goes with --prompts, and not of words: start it without accelerate launch or torchrun." in err
