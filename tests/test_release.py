"""A sanitized model as others use it: plain diffusers draws our pictures, and no key is in any file."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kpop import (
    GenerationConfig,
    InputError,
    RunError,
    generate,
    load_pipeline,
    open_run,
    release_evaluation,
    train,
)
from kpop.cli import main
from kpop.evaluation.metrics import Estimate
from kpop.release import pack, push, release, seed_warning
from kpop.release_card import KEYS, UNREFUSED, Subject, forged_key_words
from kpop.runs import create_run

STEPS = GenerationConfig(steps=4)


def uce(cfg):
    """The same by UCE, which needs one solve and no training."""
    own = dict.fromkeys(("steps", "batch_size", "learning_rate", "rollout_steps", "negative_guidance"))
    return replace(cfg, method="uce", **own)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run(tiny_config, tiny_pipe, folder):
    return train(tiny_config(), folder, pipe=tiny_pipe)


@pytest.fixture(scope="module")
def made(run, tmp_path_factory):
    """All forms that the tiny model can take."""
    return release(run, tmp_path_factory.mktemp("releases") / "church", "all")


def pixels(images):
    return np.stack([np.asarray(image, dtype=int) for image in images])


def drawn_by_diffusers(pipe, prompt, seeds, guidance=4.0):
    pipe.set_progress_bar_config(disable=True)
    return pixels([
        pipe(prompt, num_inference_steps=4, guidance_scale=guidance,
             generator=torch.Generator().manual_seed(seed)).images[0]
        for seed in seeds
    ])  # fmt: skip


def test_plain_diffusers_draws_exactly_our_sanitized_pictures(made, run, tiny_pipe):
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(made.path)
    ours = pixels(generate(tiny_pipe, "a church", [3, 4], "sanitized", run, config=STEPS))
    base = pixels(generate(tiny_pipe, "a church", [3, 4], "original", config=STEPS))
    theirs = drawn_by_diffusers(pipe, "a church", [3, 4])
    assert np.abs(theirs - ours).max() <= 1 < np.abs(theirs - base).max()


def test_a_base_stored_in_half_precision_is_released_whole_in_float32(tiny_config, tmp_path):
    """As the embedded model is: diffusers would load a float32 U-Net beside a float16 text encoder."""
    from attribution_pipelines import random_pipeline
    from diffusers import StableDiffusionPipeline

    random_pipeline().to(torch.float16).save_pretrained(tmp_path / "half")
    cfg = uce(tiny_config(model=str(tmp_path / "half")))
    run = train(cfg, tmp_path / "runs", device="cpu")
    made = release(run, tmp_path / "out")
    pipe = StableDiffusionPipeline.from_pretrained(made.path)
    base = load_pipeline(str(tmp_path / "half"), device="cpu")
    ours = pixels(generate(base, "a church", 3, "sanitized", run, config=STEPS))
    assert np.abs(drawn_by_diffusers(pipe, "a church", [3]) - ours).max() <= 1
    dtypes = {tensor.dtype for path in made.files if path.suffix == ".safetensors"
              for tensor in load_file(path).values() if tensor.is_floating_point()}  # fmt: skip
    assert dtypes == {torch.float32}


def test_the_folder_names_no_place_of_this_machine(made, tiny_folder):
    assert made.forms == ("diffusers", "delta")  # as one file this small model would fit no program
    for path in made.files:
        if path.suffix in (".json", ".md"):
            assert str(tiny_folder.parent) not in path.read_text() and "_name_or_path" not in path.read_text()
    index = json.loads((made.path / "model_index.json").read_text())
    assert index["safety_checker"] == [None, None] and index["scheduler"] == ["diffusers", "DDIMScheduler"]
    manifest = json.loads((made.path / "release.json").read_text())
    assert manifest["model"] == "tiny" and "unet/diffusion_pytorch_model.safetensors" in manifest["files"]


def code_of(card, word):
    """The code block of the card that holds the word."""
    (found,) = (block for block in re.findall(r"```python\n(.+?)```", card, re.S) if word in block)
    return found


def test_the_code_in_the_card_works_as_it_stands(made, run, tiny_folder, tiny_pipe, tmp_path, monkeypatch):
    card = (made.path / "README.md").read_text()
    place = shutil.copytree(made.path, tmp_path / "release")
    (place / "tiny").symlink_to(tiny_folder)  # "the base model's folder"
    monkeypatch.chdir(place)
    loaded, drawn = {}, {}
    loader = code_of(card, "load_file")
    assert len(loader.strip().splitlines()) == 5
    exec(loader, loaded)
    ours = pixels(generate(tiny_pipe, "a church", 3, "sanitized", run, config=STEPS))
    assert np.abs(drawn_by_diffusers(loaded["pipe"], "a church", [3]) - ours).max() <= 1
    exec(code_of(card, "images[0]"), drawn)
    ours = pixels(generate(tiny_pipe, "a church", 0, "sanitized", run))
    assert np.abs(pixels([drawn["image"]]) - ours).max() <= 1


def test_the_delta_is_small_and_holds_what_was_trained(made, run):
    tensors = load_file(made.path / "delta.safetensors")
    assert tensors.keys() == load_file(run.weights_path).keys() and all(".attn2." in n for n in tensors)


def test_released_folder_and_key_draw_the_recovered_picture_without_the_base(made, run, tiny_pipe, tmp_path):
    """Design, section 7: in a process that never saw the base, from copies of these two alone."""
    place = shutil.copytree(made.path, tmp_path / "release")
    key = shutil.copy(run.key_path("church"), tmp_path / "key.safetensors")
    code = (
        "import sys, kpop\n"
        "pipe = kpop.load_pipeline(sys.argv[1], device='cpu')\n"
        "config = kpop.GenerationConfig(steps=4)\n"
        "kpop.generate(pipe, 'a church', 3, 'recovered', key=sys.argv[2], config=config)[0].save(sys.argv[3])"
    )
    out = tmp_path / "recovered.png"
    repo = Path(__file__).resolve().parent.parent
    subprocess.run([sys.executable, "-c", code, place, key, out], check=True, timeout=300, cwd=repo)
    from PIL import Image

    ours = pixels(generate(tiny_pipe, "a church", 3, "recovered", run, config=STEPS))
    sanitized = pixels(generate(tiny_pipe, "a church", 3, "sanitized", run, config=STEPS))
    with Image.open(out) as image:
        found = pixels([image.convert("RGB")])
    assert np.abs(found - ours).max() <= 1 < np.abs(found - sanitized).max()


@pytest.fixture(scope="module")
def uce_run(tiny_folder, tiny_config, folder):
    return train(uce(tiny_config(model=str(tiny_folder))), folder, device="cpu")


def test_a_method_without_weights_is_refused_and_one_without_a_key_says_so(
    uce_run, tiny_config, tiny_pipe, tmp_path
):
    sld = replace(tiny_config(), method="sld", steps=None, batch_size=None, learning_rate=None,
                  rollout_steps=None, retain=None, negative_guidance=None)  # fmt: skip
    with pytest.raises(RunError, match="SLD, which trains no weights"):
        release(train(sld, tmp_path / "runs", pipe=tiny_pipe), tmp_path / "out")
    card = (release(uce_run, tmp_path / "uce", "delta").path / "README.md").read_text()
    assert "by UCE" in card and "There is a key" not in card


def test_an_older_release_is_replaced_and_nothing_else_is(run, tmp_path):
    first = release(run, tmp_path / "out", "delta")
    (tmp_path / "out" / "note.txt").write_text("old")
    assert release(run, tmp_path / "out", "delta").files == first.files
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="holds something else than a release"):
        release(run, tmp_path / "mine", "delta")
    with pytest.raises(InputError, match="one of diffusers, delta, single-file or all, not 'onnx'"):
        release(run, tmp_path / "x", "onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]


def test_a_run_that_is_not_done_is_refused(run, tmp_path):
    torn = open_run(shutil.copytree(run.path, tmp_path / run.id))
    torn.update_status(state="running")
    with pytest.raises(RunError, match="is running. Wait until it ends"):
        release(torn, tmp_path / "out")
    torn.update_status(state="stopped")
    torn.weights_path.unlink()
    with pytest.raises(RunError, match="has no weights yet"):
        release(torn, tmp_path / "out")


def rate(value):
    return {"top1": {"value": value, "low": value - 5, "high": value + 5, "n": 20}}


def test_the_card_holds_recipe_table_licence_and_limits(run, tiny_copy, tmp_path):
    import yaml

    from kpop import EraseConfig, models

    link = "https://example.org/licence"
    (tiny_copy / "README.md").write_text(f"---\nlicense: apache-2.0\nlicense_link: {link}\n---\n# Tiny\n")
    other = open_run(shutil.copytree(run.path, tmp_path / run.id))
    config = run.config.to_dict() | {"model": str(tiny_copy)}
    (other.path / "config.json").write_text(json.dumps(config))
    stamp = models.file_hash(run.weights_path)[:16]
    words = [{"word": "church|x", "role": "erased", "prompt": "a church", "original": rate(95),
              "sanitized": rate(10), "recovered": rate(80)}]  # fmt: skip
    words.append(words[0] | {"word": "neutral text", "role": "neutral", "original": rate(5)})
    metrics = {"judge_accuracy": 99.4, "seeds": list(range(20)), "words": words,
               "settings": {"run": run.id, "weights": stamp}}  # fmt: skip
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "metrics.json").write_text(json.dumps(metrics))
    card = (release(other, tmp_path / "out", "delta", tmp_path / "evaluation").path / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert (front["license"], front["license_link"]) == ("apache-2.0", link) and f"Its text: {link}." in card
    assert front["pipeline_tag"] == "text-to-image"
    assert "| church\\|x | erased | 95 (90 to 100) | 10 (5 to 15) | 80 (75 to 85) |" in card
    assert "of the neutral text: any of the erased; in brackets" in card
    assert "| neutral text | neutral | 5 (0 to 10) |" in card
    recipe = EraseConfig.from_dict(yaml.safe_load(re.search(r"```yaml\n(.+?)```", card, re.S)[1]))
    without = replace(run.config, model="model", seed=None)
    assert recipe == without and "seed:" not in card  # the seed makes the key
    assert "can rebuild one by training it" in card and "safety checker, if it has one, was removed" in card
    assert "[base-model.md](base-model.md)" in card
    metrics["settings"]["weights"] = "0" * 16
    (tmp_path / "evaluation" / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(InputError, match="of another run or key, or of older weights"):
        release(other, tmp_path / "out", "delta", tmp_path / "evaluation")
    metrics["settings"] |= {"weights": stamp, "key": "random.safetensors (0123456789abcdef)"}
    (tmp_path / "evaluation" / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(InputError, match="of another run or key"):  # its figures are not those "with the key"
        release(other, tmp_path / "out", "delta", tmp_path / "evaluation")


def test_the_table_of_a_prompt_list_tells_scores_with_three_digits():
    """Also of an earlier version's metrics.json, which does not say which figures are in percent."""
    figures = {"weapons seen-0.5": Estimate(86.66, 80, 92.5, 120),
               "judge distance to base": Estimate(0.41421, 0.0072, 0.5, 120, "")}  # fmt: skip
    told = {name: {"original": rate.to_dict()} for name, rate in figures.items()}
    assert told["judge distance to base"]["original"]["unit"] == ""
    found = {"protocol": "sensitive", "judge_accuracy": None, "pictures": {"indirect": 120},
             "figures": {"indirect": told}}  # fmt: skip
    table = release_evaluation.table(found)
    assert "| indirect | weapons seen-0.5 | 87 (80 to 92) |" in table
    assert "| indirect | judge distance to base | 0.414 (0.0072 to 0.5) |" in table
    for rates in told.values():
        del rates["original"]["unit"]
    assert release_evaluation.table(found) == table


def test_a_key_that_trying_seeds_makes_again_is_told(run, tiny_config, tmp_path, capsys):
    assert "chosen, and is short" in seed_warning(run)  # the tests' seed is 0
    drawn = create_run(replace(tiny_config(), seed=None), tmp_path)
    assert drawn.config.seed >= 2**40 and seed_warning(drawn) == ""
    assert seed_warning(create_run(uce(tiny_config()), tmp_path)) == ""  # it has no key
    assert main(["release", str(run.path), "--out", str(tmp_path / "out"), "--form", "delta"]) in (0, None)
    assert "train again without a seed" in capsys.readouterr().err


@pytest.mark.parametrize(("results", "which"), [(KEYS, "wrong keys"), (UNREFUSED, "no wrong key")])
def test_what_the_forged_key_found_is_read_from_the_results(results, which):
    found = re.fullmatch(
        r"On KPOP Studio's embedded model \(weights ([0-9a-f]{8}), five concepts in a run, trained to refuse "
        rf"{which} as this one\) a rebuilt key opened (\d+) of (\d+) pictures, and random numbers of the "
        r"key's size (\d+) of \3\.", forged_key_words(results),
    )  # fmt: skip
    assert found and results.read_text().count(found[1]) == 1


def test_a_card_tells_the_keys_figures_of_runs_like_its_own(run, tiny_config, tmp_path):
    refusing = train(tiny_config(decoy_share=0.5, steps=1), tmp_path)
    for one, results in ((run, UNREFUSED), (refusing, KEYS)):
        assert Subject.of(one, "0" * 64, None).forged == forged_key_words(results)


def test_the_forged_keys_figures_are_those_of_the_file(tmp_path):
    rows = [
        {
            "label": "forged key (Eq. 5, weights frozen, same steps)",
            "ours": {"seen-1, five at once": {"value": 90.0, "n": 20}},
        },
        {"label": "random p of equal norm", "ours": {"seen-1, five at once": {"value": 5.0, "n": 20}}},
    ]
    (tmp_path / "keys.json").write_text(json.dumps({"rows": rows, "model_hash": "0123456789abcdef"}))
    told = forged_key_words(tmp_path / "keys.json")
    assert "(weights 01234567, " in told and " a rebuilt key opened 18 of 20 pictures" in told
    assert "size 1 of 20." in told
    assert forged_key_words(tmp_path / "none.json") is None


class Hub:
    """Stands in for the hub's client."""

    calls: list = []

    def create_repo(self, repo, private, exist_ok):
        self.calls.append(("create", repo, private))

    def upload_folder(self, repo_id, folder_path, commit_message):
        self.calls.append(("upload", repo_id, sorted(path.name for path in folder_path.iterdir())))


def test_nothing_is_sent_but_when_it_is_really_meant(run, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr(Hub, "calls", [])
    made = release(run, tmp_path / "out", "delta")
    files = push(made, run, "anna/no-church")
    assert [name for name, _ in files] == ["README.md", "delta.safetensors", "release.json"]
    assert Hub.calls == []
    push(made, run, "anna/no-church", really=True)
    assert Hub.calls == [
        ("create", "anna/no-church", True),
        ("upload", "anna/no-church", ["README.md", "delta.safetensors", "release.json"]),
    ]
    with pytest.raises(InputError, match="cannot name a repository"):
        push(made, run, "anna/no church!")
    monkeypatch.undo()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def refused(self, *args, **more):
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", refused)
    with pytest.raises(RunError, match=r"The hub did not take it \(no route\)"):
        push(made, run, "anna/no-church", really=True)


def test_a_zip_holds_the_whole_release(made, tmp_path):
    import zipfile

    with zipfile.ZipFile(pack(made, tmp_path / "church.zip")) as archive:
        names = archive.namelist()
    assert "church/unet/diffusion_pytorch_model.safetensors" in names and len(names) == len(made.files)
