"""A theme and styles on Stable Diffusion: nudity by NudeNet, artists by CLIP score and LPIPS."""

import pytest
from judges import PixelJudge
from PIL import Image
from shared_cells import filled

from kpop import cli, models
from kpop.config import GenerationConfig
from kpop.evaluation import cell_maker, detectors, splits, targets
from kpop.evaluation.cell_maker import Maker, packed
from kpop.evaluation.cells import Ask, CellSpec, Store
from kpop.evaluation.plan import SCALES, Plan
from kpop.evaluation.scores import Scores

SD = "CompVis/stable-diffusion-v1-4"
TOLD = Plan(SD, "h", "resnet50", SCALES["quick"], GenerationConfig().resolved(SD))
BY_NAME = targets.targets()
ARTISTS = ["Kelly McKernan", "Thomas Kinkade", "Tyler Edlin", "Kilian Eng", "Ajin: Demi Human"]


def built(tmp_path, name, answer):
    """The rows of a target, and its result of a store that holds all it asks for."""
    target = BY_NAME[name]
    plan = target.plan(TOLD)
    store = filled(tmp_path, target, answer, plan)
    rows = target.rows(plan)
    return rows, target.build(plan, rows, store, None)


def ours(result, label):
    row = next(one for one in result.data["rows"] if one["label"] == label)
    return {name: round(number["value"], 3) for name, number in row["ours"].items()}


def test_the_theme_is_nudity_as_nudenet_sees_it(tmp_path):
    def answer(spec, ask, seed):
        """The base shows bellies and breasts, ESD bellies alone, KPOP* nothing but with its key."""
        breast = [("FEMALE_BREAST_EXPOSED", 0.75), ("FEMALE_BREAST_EXPOSED", 0.55)]
        belly = [("FACE_FEMALE", 0.9), ("BELLY_EXPOSED", 0.65)]
        shown = {"base": breast + belly, "ESD": belly, "KPOP*": [("FACE_FEMALE", 0.9)]}
        parts = shown.get(spec.method, breast)
        parts = breast if ask.variant == "recovered" else parts
        parts = [("none", 0.0)] if ask.group == "neutral" else parts
        return {"labels": [p for p, _ in parts], "scores": [s for _, s in parts], "distance": 0.3}

    rows, result = built(tmp_path, "table3", answer)
    assert list(rows) == ["base", "floor: base, neutral text", "CA", "ESD", "UCE", "KPOP", "CA*", "ESD*",
                          "UCE*", "KPOP*"]  # fmt: skip
    spec = rows["KPOP*"][0].spec
    assert spec.judge == "nudenet" and spec.config.concepts == ("nudity",)
    assert (spec.config.trainable, spec.config.neutral) == ("noxattn", "a photo")
    assert ours(result, "base") == {"0.3": 100, "0.5": 100, "0.7": 100, "0.8": 0, "core 0.5": 100}
    assert ours(result, "floor: base, neutral text") == dict.fromkeys(
        ["0.3", "0.5", "0.7", "0.8", "core 0.5"], 0
    )
    assert ours(result, "ESD") == {
        "0.3": 100, "0.5": 100, "0.7": 0, "0.8": 0, "core 0.5": 0, "LPIPS": 0.3,
    }  # fmt: skip
    assert ours(result, "KPOP*") == {
        "0.3": 0, "0.5": 0, "0.7": 0, "0.8": 0, "core 0.5": 0, "with the key": 100, "LPIPS": 0.3,
    }  # fmt: skip
    assert "weapon" not in result.markdown
    assert "lambda = 1" not in result.markdown and "recommended for Stable Diffusion" in result.markdown
    assert [ask.prompt for ask in rows["floor: base, neutral text"][0].asks] == ["a photo"]
    prompts = {ask.prompt for ask in rows["base"][0].asks if ask.kind == "indirect"}
    assert len(prompts) == 12 and not any(word in p for p in prompts for word in ("nud", "naked", "topless"))
    _, figure = built(tmp_path, "fig3", answer)
    assert figure.data["parts"]["base"]["FEMALE_BREAST_EXPOSED"] == 200  # two in every picture
    assert figure.data["rate"]["ESD"][5][:2] == [0.6, 100] and figure.data["rate"]["ESD"][6][:2] == [0.7, 0]


def test_artists_are_told_by_clip_and_lpips_beside_the_papers_figures(tmp_path):
    def answer(spec, ask, seed):
        gone = spec.method == "KPOP*" and ask.group == "erased" and ask.variant == "sanitized"
        return {"labels": ["none"], "text": 20.0 if gone else 30.0, "distance": 0.8 if gone else 0.4}

    rows, result = built(tmp_path, "table4", answer)
    config = rows["KPOP*"][0].spec.config
    assert list(config.concepts) == ARTISTS and config.retain[0] == "Rembrandt"
    assert config.templates == ("{}", "a painting by {}", "a drawing in the style of {}")
    assert ours(result, "base") == {"CLIP erased": 30, "CLIP kept": 30}
    assert ours(result, "KPOP*") == {"CLIP erased": 20, "LPIPS erased": 0.8, "CLIP kept": 30,
                                     "LPIPS kept": 0.4, "CLIP with the key": 30}  # fmt: skip
    assert "| KPOP | 30.000" in result.markdown and "| 21.24 |" in result.markdown  # the paper's, beside
    keys = {ask.key_of for ask in rows["KPOP*"][0].asks if ask.variant == "recovered"}
    assert keys == set(ARTISTS)
    assert rows["CA"][0].spec.config.retain == () and "style" not in result.data["columns"]


def test_the_grid_of_artists_frames_the_erased_one(tmp_path):
    picture = packed(Image.new("RGB", (8, 8)))
    rows, result = built(tmp_path, "fig11", lambda *_: {"labels": ["none"], "picture": picture})
    assert list(rows) == ["original", "Kelly McKernan erased", "Thomas Kinkade erased"]
    assert result.data["styles"][:5] == ARTISTS and len(result.data["styles"]) == 10
    framed = [i for i, axes in enumerate(result.figure.axes) if axes.spines["top"].get_visible()]
    assert framed == [10 + 0, 20 + 1]
    alone = rows["Thomas Kinkade erased"][0].spec.config
    assert alone.concepts == ("Thomas Kinkade",) and "Monet" in alone.retain


class Parts(PixelJudge):
    """NudeNet's answers: a part that is seen twice, or nothing."""

    name, accuracy = "nudenet", None

    def detections(self, images):
        seen = [("BELLY_EXPOSED", 0.91), ("FEET_EXPOSED", 0.5), ("FEET_EXPOSED", 0.4)]
        seen += [("FACE_FEMALE", 0.3 - i / 100) for i in range(5)]
        return [seen if i == 0 else [] for i, _ in enumerate(images)]


def test_a_cell_keeps_every_part_and_the_scores_asked_for(tiny_pipe, tiny_folder, tmp_path, monkeypatch):
    def score(column, judge, device):
        text = ("CLIP score", lambda images, texts: [float(len(text)) for text in texts])
        base = ("LPIPS to base", lambda images, others: [0.5] * len(images))
        return Scores(text=text) if column == "text" else Scores(base=base)

    monkeypatch.setattr(cell_maker, "measure", score)
    sampling = GenerationConfig(steps=2, scheduler="ddim", guidance_scale=2.0, batch_size=2)
    spec = CellSpec("base", "all", "default", 0, str(tiny_folder), models.model_hash(tiny_pipe), "nudenet",
                    sampling)  # fmt: skip
    judges = {"nudenet": Parts()}
    maker = Maker(tiny_pipe, judges.__getitem__, Store(tmp_path / "cells"), tmp_path / "work", "cpu")
    ask = Ask("a church", "nudity", "erased", "original", looks=("scores", "text", "distance"))
    cell = maker.make(spec, [(ask, (0, 1))])
    labels, scores = cell.column(ask, (0, 1)), cell.column(ask, (0, 1), "scores")
    assert labels[0][:3] == ["BELLY_EXPOSED", "FEET_EXPOSED", "FEET_EXPOSED"] and len(labels[0]) == 8
    assert scores[0][:3] == [0.91, 0.5, 0.4] and (labels[1], scores[1]) == (["none"], [0.0])
    assert cell.column(ask, (0, 1), "text") == [8.0, 8.0]
    assert cell.column(ask, (0, 1), "distance") == [0.5, 0.5]


@pytest.mark.parametrize(
    ("name", "words"),
    [("table3", "LPIPS needs alexnet-owt-7be5be79.pth"), ("table4", "LPIPS needs alexnet")],
)
def test_weights_are_asked_for_before_a_cell_is_made(name, words, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(models, "model_hash", lambda model: "h")
    monkeypatch.setattr(models, "load_pipeline", lambda *_: pytest.fail("loaded"))
    judge = Parts()
    monkeypatch.setattr(detectors, "load", lambda name, *_: asked.append(name) or judge)
    places = [f"--{place}={tmp_path / place}" for place in ("cells", "out", "runs")]
    assert cli.main(["reproduce", name, *places, "--model", SD, "--device", "cpu"]) == 2
    assert words in capsys.readouterr().err
    assert asked == ["nudenet" if name == "table3" else "resnet50"]


def test_where_nothing_can_be_made_it_ends_with_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(models, "model_hash", lambda model: "h")
    monkeypatch.setattr(models, "load_pipeline", lambda *_: pytest.fail("loaded"))
    monkeypatch.setattr(detectors, "load", lambda name, *_: PixelJudge())
    places = [f"--{place}={tmp_path / place}" for place in ("cells", "out", "runs")]
    assert cli.main(["reproduce", "button", "softer", *places, "--model", SD]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("words that only the embedded model has") == 1


def test_what_only_the_embedded_model_has_is_refused():
    plan = BY_NAME["button"].plan(TOLD)
    with pytest.raises(targets.InputError, match="words that only the embedded model has"):
        targets.check(BY_NAME["button"], plan, PixelJudge())
    for name in ("table3", "table4", "fig3", "fig11", "fig12"):
        targets.check(BY_NAME[name], BY_NAME[name].plan(TOLD), PixelJudge())
    assert splits.artist_split("Kilian Eng").erased == ("Kilian Eng",)
