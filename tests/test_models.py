"""Loading base models: what can be loaded, and what is said when it cannot."""

import json

import pytest
import torch
from attribution_pipelines import random_pipeline

from kpop import EraseConfig, InputError, ModelError, load_pipeline, models, precision


def test_a_local_folder_loads_frozen_without_safety_checker(tiny_pipe):
    assert tiny_pipe.safety_checker is None
    assert not any(parameter.requires_grad for parameter in tiny_pipe.unet.parameters())
    assert tiny_pipe.unet.dtype == torch.float32


def test_a_hub_model_without_network_says_how_to_get_it():
    with pytest.raises(ModelError, match="not on this machine.*give the folder's path"):
        load_pipeline("CompVis/stable-diffusion-v1-4")


@pytest.mark.parametrize("name", ["nonsense", "../../etc/passwd", "a b/c", ""])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(ModelError, match="There is no model"):
        load_pipeline(name)


def test_pickled_weights_are_refused(tiny_copy):
    weights = next((tiny_copy / "unet").glob("*.safetensors"))
    weights.rename(weights.with_name("diffusion_pytorch_model.bin"))
    with pytest.raises(ModelError, match="only pickled weights in unet/"):
        load_pipeline(str(tiny_copy))


def test_missing_parts_are_named(tiny_copy):
    next((tiny_copy / "vae").glob("*.safetensors")).unlink()
    with pytest.raises(ModelError, match="vae/ has no weights"):
        load_pipeline(str(tiny_copy))
    (tiny_copy / "model_index.json").unlink()
    with pytest.raises(ModelError, match="no model_index.json"):
        load_pipeline(str(tiny_copy))


def test_another_pipeline_class_is_refused(tiny_copy):
    index = json.loads((tiny_copy / "model_index.json").read_text())
    (tiny_copy / "model_index.json").write_text(json.dumps({**index, "_class_name": "FluxPipeline"}))
    with pytest.raises(ModelError, match="is a FluxPipeline"):
        load_pipeline(str(tiny_copy))


def test_truncated_weights_are_a_model_error(tiny_copy):
    weights = next((tiny_copy / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(ModelError, match="could not be loaded"):
        load_pipeline(str(tiny_copy))


def test_devices_that_are_not_there_are_refused():
    with pytest.raises(InputError, match="device must be"):
        models.pick_device("toaster")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="no CUDA"):
            models.pick_device("cuda")


def test_a_card_that_only_imitates_bf16_is_not_taken_for_one(monkeypatch):
    said = lambda including_emulation=True: including_emulation  # noqa: E731  as torch does on a T4
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", said)
    monkeypatch.setattr(models, "pick_device", lambda device="auto": torch.device("cuda"))
    assert precision.training_dtype("auto", "cuda") == "fp32"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert precision.training_dtype("auto", "cuda") == "bf16"


def test_the_hash_names_the_weights(tiny_pipe, tiny_folder, tiny_copy):
    assert (
        models.model_hash(tiny_pipe)
        == models.model_hash(str(tiny_folder))
        == models.model_hash(str(tiny_copy))
    )
    other = random_pipeline(seed=1)
    assert models.model_hash(other) not in (
        models.model_hash(tiny_pipe),
        models.model_hash(random_pipeline(seed=2)),
    )


def test_text_too_long_for_the_encoder_is_refused(tiny_pipe):
    models.check_text(tiny_pipe, "a church")
    models.check_text(tiny_pipe, "")
    with pytest.raises(InputError, match="reads 77"):
        models.check_text(tiny_pipe, "church " * 80)


def test_an_unknown_word_names_three_known_ones(tiny_copy):
    (tiny_copy / "words.json").write_text(
        json.dumps({"church": {"count": 9}, "castle": 3, "a": 1, "gas pump": 2})
    )
    pipe = load_pipeline(str(tiny_copy), device="cpu")
    models.check_text(pipe, "A church, a gas pump")
    with pytest.raises(InputError, match="'chruch'.*'church'") as told:
        models.check_text(pipe, "a chruch")
    assert str(told.value).count("'") == 8
    assert models.known_words(pipe) == ["a", "castle", "church", "gas", "pump"]


def test_one_object_of_the_embedded_model_is_trained_beside_other_words_too():
    shares = [
        EraseConfig(**told).resolved().pair_share
        for told in (
            {"concepts": ("church",)}, {"concepts": ("church",), "method": "esd"},
            {"concepts": ("church", "truck")}, {"concepts": ("ink style",)},
            {"concepts": ("church",), "preset": "paper"}, {"concepts": ("church",), "method": "uce"},
        )
    ]  # fmt: skip
    assert shares == [0.25, 0.25, 0, 0, 0, 0]


def test_settings_follow_the_kind_of_model(tiny_folder):
    assert models.family("emoji") == models.family(str(tiny_folder)) == "emoji"
    assert models.family("CompVis/stable-diffusion-v1-4") == "sd"
    assert models.generation_defaults("CompVis/stable-diffusion-v1-4")["guidance_scale"] == 7.5
