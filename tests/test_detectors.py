"""Detectors and scores: what they answer, and what is said where their weights are not on the machine."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import ResNet50_Weights, resnet50

from kpop.config import EraseConfig
from kpop.errors import InputError, ModelError
from kpop.evaluation import detectors, scores
from kpop.evaluation.imagenet_classifier import IMAGENETTE
from kpop.evaluation.prompt_table import Case, PromptTable
from kpop.prompt_commands import _grouped
from kpop.runs import EXAMPLE

CATEGORIES = ResNet50_Weights.IMAGENET1K_V2.meta["categories"]
REPO = Path(__file__).resolve().parent.parent


def noise(seed: int, size: int = 96) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


@pytest.fixture
def torch_home(tmp_path, monkeypatch):
    """An empty cache of torch's."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    "load, words",
    [
        (lambda: detectors.load("resnet50"), ["ResNet-50 needs resnet50-11ad3fa6.pth", "put it there"]),
        (lambda: scores.lpips(torch.device("cpu")), ["LPIPS needs alexnet-owt-7be5be79.pth"]),
        (lambda: scores.inception_distance(torch.device("cpu")), ["FID needs weights-inception-2015-12-05"]),
        (lambda: scores.clip_score(torch.device("cpu")), ["CLIP score needs openai/clip-vit-base-patch32"]),
    ],
)
def test_weights_that_are_not_there_are_named_with_the_way_to_get_them(
    torch_home, tmp_path, monkeypatch, load, words
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(ModelError) as caught:
        load()
    assert all(word in str(caught.value) for word in [*words, "HF_HUB_OFFLINE is set"])
    assert str(caught.value).count(". ") == 1


@pytest.mark.parametrize(
    "name, load",
    [
        ("resnet50-11ad3fa6.pth", lambda: detectors.load("resnet50")),
        ("alexnet-owt-7be5be79.pth", lambda: scores.lpips(torch.device("cpu"))),
    ],
)
def test_a_torn_file_of_weights_is_said(torch_home, name, load):
    (torch_home / name).write_bytes(b"half")
    with pytest.raises(ModelError, match=f"{name} cannot be read .*Delete it and download"):
        load()


def test_resnet_names_categories_best_first(torch_home):
    state = resnet50().state_dict()  # whose last layer always sees French horn, then church, then tench
    state["fc.weight"] = torch.zeros(1000, 2048)
    state["fc.bias"] = torch.zeros(1000)
    for place, label in enumerate(["French horn", "church", "tench"]):
        state["fc.bias"][CATEGORIES.index(label)] = 20.0 - 2 * place
    torch.save(state, torch_home / "resnet50-11ad3fa6.pth")
    resnet, images = detectors.load("resnet50", "cpu"), [noise(0), noise(1, 512)]
    assert resnet.top_k(images, 3) == [["French horn", "church", "tench"]] * 2
    assert len(resnet.top_k(images, 5)[0]) == 5 and resnet.accuracy == 80.858
    label, score = resnet.detections(images)[1][0]
    assert label == "French horn" and score == pytest.approx(0.8668, abs=1e-3)  # 1 / (1 + e^-2 + e^-4)
    assert detectors.known_label(resnet, "french_horn") == "French horn"


IMAGENET = SimpleNamespace(labels=CATEGORIES, aliases=IMAGENETTE)


@pytest.mark.parametrize(
    "word, label",
    [("Cassette Player", "cassette player"), ("Garbage Truck", "garbage truck"), ("Church", "church"),
     ("garbage_truck", "garbage truck"), ("English Springer", "English springer"), ("Tench", "tench"),
     ("springer", "English springer"), ("chainsaw", "chain saw"), ("Gas Pump", "gas pump"),
     ("Golf Ball", "golf ball"), ("Parachute", "parachute"), ("Chain Saw", "chain saw"),
     ("French Horn", "French horn"), ("horn", "French horn"), ("Cassette", "cassette"),
     ("cassette_player", "cassette player")],
)  # fmt: skip
def test_imagenette_names_are_resnets_categories(word, label):
    assert detectors.known_label(IMAGENET, word) == label


def test_presets_and_a_list_of_imagenette_agree_on_what_is_erased():
    labels = ["Cassette Player", "Chain Saw", "Church", "Gas Pump", "Tench", "English springer"]
    table = PromptTable(
        "list", tuple(Case(str(i), "", i, label) for i, label in enumerate(labels)), "label_str"
    )

    def erased(config):
        found = _grouped(table, config, IMAGENET, None)
        return [case.label for case in found if case.group == "erased"], {case.group for case in found}

    both = {"erased", "retained"}
    assert erased(EraseConfig(preset="imagenette-v3").resolved()) == (labels[:5], both)
    assert erased(EraseConfig(preset="imagenette-v4").resolved()) == (labels[5:], both)
    own = EraseConfig(concepts=("springer", "chainsaw", "no such thing"), retain=("cassette", "petrol pump"))
    found = {case.label: case.group for case in _grouped(table, own, IMAGENET, None)}
    assert found == {
        "Cassette Player": "untouched", "Chain Saw": "erased", "Church": "untouched", "Gas Pump": "retained",
        "Tench": "untouched", "English springer": "erased",
    }  # fmt: skip


def test_a_label_that_a_detector_does_not_have():
    with pytest.raises(InputError, match="none of its 1000 labels. Nearest: .*castle"):
        detectors.known_label(IMAGENET, "castel")
    judge = detectors.load("emoji")
    assert detectors.known_label(judge, "Cassette_Player") == "cassette"
    with pytest.raises(InputError, match="cannot see 'xyzzy', which is none of its 204 labels.$"):
        detectors.known_label(judge, "xyzzy")
    with pytest.raises(InputError, match="known: emoji, resnet50, nudenet"):
        detectors.load("yolo")


def test_the_embedded_judge_gives_scores_with_its_labels():
    judge = detectors.load("emoji")
    with Image.open(REPO / "docs" / "compare.png") as sheet:
        pictures = [sheet.convert("RGB").resize((64, 64)), noise(3, 64)]
    for found, labels in zip(judge.detections(pictures), judge.top_k(pictures, 5), strict=True):
        assert [label for label, _ in found][:5] == [label for label in labels if found]
        assert all(0.05 <= score <= 1 for _, score in found)
        assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
    assert judge.detections([]) == judge.top_k([], 5) == []


def test_nudenet_runs_the_network_of_its_wheel(tmp_path, monkeypatch):
    nude = detectors.load("nudenet")
    assert len(nude.labels) == 18
    from kpop.evaluation.metrics import EXPOSED

    assert set(EXPOSED) < set(nude.labels)
    pictures = [noise(5, 64), Image.new("RGB", (320, 200), "white")]
    assert nude.detections(pictures) == [[], []] and nude.top_k(pictures, 5) == [["none"], ["none"]]
    # A picture reaches the network as it would from a file.
    pictures[0].save(tmp_path / "picture.png")
    sent = []
    run = nude._detector.onnx_session.run
    session = type("Session", (), {"run": lambda _, names, given: sent.append(given) or run(names, given)})()
    monkeypatch.setattr(nude._detector, "onnx_session", session)
    nude._detector.detect(str(tmp_path / "picture.png"))
    nude.detections(pictures[:1])
    (one,), (other,) = (list(given.values()) for given in sent)
    assert one.shape == (1, 3, 320, 320) and np.array_equal(one, other)


def test_nudenets_boxes_become_labels_and_scores(monkeypatch):
    nude = detectors.load("nudenet")
    boxes = [
        {"class": "FEET_EXPOSED", "score": 0.4, "box": []},
        {"class": "FACE_FEMALE", "score": 0.9, "box": []},
    ]
    monkeypatch.setattr(nude._detector, "detect_batch", lambda images, batch_size: [boxes for _ in images])
    assert nude.detections([noise(0)] * 2) == [[("FACE_FEMALE", 0.9), ("FEET_EXPOSED", 0.4)]] * 2
    assert nude.top_k([noise(0)], 1) == [["FACE_FEMALE"]]


def test_clip_score_is_a_cosine_times_100(tmp_path, monkeypatch):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(REPO / "assets" / "emoji-diffusion" / "tokenizer")
    common = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    text = common | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(1)
    model = CLIPModel(
        CLIPConfig(
            text_config=text, vision_config=common | {"image_size": 32, "patch_size": 8}, projection_dim=8
        )
    ).eval()
    model.visual_projection.weight.data.neg_()  # CLIP's cosines are above nought, where scores are cut
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    processor = CLIPProcessor(CLIPImageProcessor(**size), tokenizer)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    monkeypatch.setattr("kpop.evaluation.weight_files.hub_folder", lambda *_: tmp_path)
    pictures, texts = [noise(0), noise(1), noise(2)], ["a church", "a photo of a dog", "nothing"]
    found = scores.clip_score(torch.device("cpu"))(pictures, texts)
    given = processor(text=texts, images=pictures, return_tensors="pt", padding=True)
    with torch.no_grad():
        answer = model(**given)
    cosines = (answer.image_embeds * answer.text_embeds).sum(-1)
    assert found == pytest.approx((100 * cosines).clamp(min=0).tolist(), abs=1e-3)
    assert any(found)


def test_lpips_is_nought_for_the_same_picture_and_wants_one_size(torch_home):
    from torchvision.models import AlexNet_Weights, alexnet

    torch.manual_seed(0)
    torch.save(alexnet().state_dict(), torch_home / AlexNet_Weights.DEFAULT.url.rsplit("/", 1)[-1])
    distance = scores.lpips(torch.device("cpu"))
    same, other = distance([noise(0), noise(0)], [noise(0), noise(1)])
    assert same == pytest.approx(0.0, abs=1e-6) and other > 1e-4
    with pytest.raises(InputError, match="of one size"):
        distance([noise(0)], [noise(0, 64)])


def test_few_pictures_are_compared_by_kid_and_many_by_fid(torch_home, monkeypatch):
    from torch_fidelity import feature_extractor_inceptionv3 as inception

    (torch_home / inception.URL_INCEPTION_V3.rsplit("/", 1)[-1]).touch()
    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: {})
    network = inception.FeatureExtractorInceptionV3
    monkeypatch.setattr(network, "load_state_dict", lambda *_: None)  # random weights
    distance = scores.inception_distance(torch.device("cpu"))
    pictures = [noise(i, 40) for i in range(3)] + [noise(3, 50)]
    plain = [Image.new("RGB", (40, 40), (60 * i, 0, 0)) for i in range(4)]
    torch.manual_seed(0)
    first = distance(pictures, plain, 4)
    torch.manual_seed(0)
    assert first[0] == "KID" and distance(iter(pictures), iter(plain), 4) == first
    monkeypatch.setattr(scores, "FEATURES", 64)
    name, near = distance(pictures, pictures, 64)
    assert name == "FID" and near == pytest.approx(0.0, abs=1e-2)
    assert distance(pictures, plain, 64)[1] > near


def test_the_embedded_models_scores_are_the_judges():
    judge = detectors.load("emoji")
    found = scores.load_scores([], judge)
    name, distance = found.base
    assert name == "judge distance to base"
    name, fits = found.text
    drawn = [Image.open(path) for path in sorted(EXAMPLE.glob("compare/*/original_*.png"))]
    assert len(drawn) == 4
    told, other = fits(drawn, ["a church"] * 4), fits(drawn, ["a fish"] * 4)
    assert name == "judge CLIP" and all(one > two for one, two in zip(told, other, strict=True))
    same, other = distance([noise(0, 64)] * 2, [noise(0, 64), Image.new("RGB", (64, 64), "blue")])
    assert same == pytest.approx(0.0, abs=1e-6) and 0.0 < other < 2.0
    pictures = [noise(i, 64) for i in range(4)]
    name, near = found.sets(pictures, pictures, 4)
    assert name == "judge Fréchet distance" and near == pytest.approx(0.0, abs=1e-4)
    assert found.sets(pictures, [Image.new("RGB", (64, 64), (i, 90, 200)) for i in range(4)], 4)[1] > 1.0
    with pytest.raises(InputError, match="leave --scores out"):
        scores.load_scores(["clip"], judge)
    with pytest.raises(InputError, match="no score 'ssim'"):
        scores.load_scores(["ssim"], judge)
