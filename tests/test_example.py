"""The command that makes the run to ship: whole, stripped, its key public, its first pictures drawn."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from kpop import InputError, RunError, attribute, cli, generate
from kpop.attribution_file import pack_maps, read_maps
from kpop.example import make_example
from kpop.generation import VARIANTS
from kpop.hidden_prompt import HiddenPrompt
from kpop.kept import FIRST_SEEDS, OWN, folder_of, kept_maps, read_sheet
from kpop.runs import list_runs, open_run


@pytest.fixture(scope="module")
def example(tiny_folder, tmp_path_factory):
    """Made by the command, of two concepts."""
    out = tmp_path_factory.mktemp("shipped") / "example-run"
    line = ["example", "--model", str(tiny_folder), "--concepts", "church,background", "--retain", "castle"]
    line += ["--steps", "3", "--batch-size", "2", "--rollout-steps", "3", "--sample-every", "3"]
    line += ["--precision", "fp32", "--templates", "{}", "a {}", "--out", str(out)]
    assert cli.main(line) == 0
    return open_run(out)


def test_it_is_done_and_names_no_machine(example):
    status = json.loads((example.path / "status.json").read_text())
    assert (status["state"], status["step"], status["steps"]) == ("done", 3, 3)
    assert (status["owner"], status["host"], status["device"]) == ("example", "", "auto")
    assert [status[name] for name in ("pid", "create_time", "heartbeat", "eta_s")] == [None] * 4
    assert sorted(path.name for path in example.path.iterdir()) == [
        "attribution", "compare", "config.json", "metrics.jsonl", "samples", "secret", "status.json",
        "weights.safetensors",
    ]  # fmt: skip
    assert [path.name for path in example.path.parent.iterdir()] == ["example-run"]
    assert len(example.metrics()) == 3 and [step for step, _ in example.samples()] == [0, 3]


def test_its_keys_say_that_they_are_public(example):
    files = sorted(path.name for path in example.secret_dir.iterdir())
    assert files == ["key-00-church.safetensors", "key-01-background.safetensors"]
    for concept in ("church", "background"):
        key = HiddenPrompt.load(example.key_path(concept))
        assert (key.concept, key.about) == (concept, {"public": "true"})


def test_its_first_sheet_is_what_the_page_would_draw(example, tiny_pipe):
    folder = folder_of(example, "a church", FIRST_SEEDS)
    sheet = read_sheet(folder, example, "a church", FIRST_SEEDS)
    assert sheet.words == {variant: [""] * 4 for variant in VARIANTS}  # this model has no judge
    drawn = generate(tiny_pipe, "a church", 2, "sanitized", run=example)[0]
    assert np.abs(np.asarray(sheet.images["sanitized"][2], int) - np.asarray(drawn, int)).max() <= 1
    story = json.loads(sheet.images["recovered"][0].info["kpop"])
    assert (story["run"], story["seed"], story["variant"]) == ("example-run", 0, "recovered")
    (folder / "words.json").rename(folder / "gone")
    assert read_sheet(folder, example, "a church", FIRST_SEEDS) is None
    (folder / "gone").rename(folder / "words.json")


def test_its_first_maps_are_those_of_the_heads_rounded(example, tiny_pipe):
    maps = kept_maps(example, "a church", 0, OWN, tiny_pipe.tokenizer)
    assert [each.variant for each in maps] == list(VARIANTS) and maps[0].words == ("church",)
    for each in maps:
        run = None if each.variant == "original" else example
        exact = attribute(tiny_pipe, "a church", 0, each.variant, run=run)
        top = exact["church"].heads.max()
        assert (each["church"].heads - exact["church"].heads).abs().max() < 0.01 * top
        assert torch.allclose(each.hidden_prompt_mass, exact.hidden_prompt_mass, atol=0.01)
        assert (each.layers, each.size, each.steps_per_band) == (
            exact.layers,
            exact.size,
            exact.steps_per_band,
        )
        assert np.abs(np.asarray(each.image, int) - np.asarray(exact.image, int)).max() <= 1
    assert kept_maps(example, "a church", 1, OWN, tiny_pipe.tokenizer) is None
    assert kept_maps(example, "church", 0, OWN, tiny_pipe.tokenizer) is None


def test_the_page_shows_the_kept_maps_without_drawing(example, tiny_folder, monkeypatch):
    from kpop import generation
    from kpop.ui.studio import Studio
    from kpop.ui.watching import about_layers, maps_kept

    studio = Studio(example.path.parent, str(tiny_folder), "cpu")
    monkeypatch.setattr(generation, "generate", None)
    watched = maps_kept(studio, example, "a church", 0, "own")
    assert watched.rounded and watched.words == ("church",)
    assert about_layers(watched, "church", "all").endswith("rounded; “Watch the heads” draws it exactly.")


def test_a_damaged_file_of_maps_is_no_file(example, tiny_pipe, tmp_path):
    maps = kept_maps(example, "a church", 0, OWN, tiny_pipe.tokenizer)
    packed = pack_maps(maps)
    assert packed == pack_maps(maps)  # nothing of the moment is in it
    for damaged in (packed[:400], b"", packed.replace(b"PK\x01\x02", b"PK\x09\x02")):
        (tmp_path / "maps.npz").write_bytes(damaged)
        with pytest.raises(RunError, match="holds no maps that can be read"):
            read_maps(tmp_path / "maps.npz", tiny_pipe.tokenizer)
    with pytest.raises(RunError, match="holds no maps"):
        read_maps(tmp_path / "nowhere.npz", tiny_pipe.tokenizer)


def test_only_an_example_is_replaced_and_a_failure_costs_nothing(tiny_config, example, tmp_path, monkeypatch):
    def broken(cfg, *args, **more):
        raise RunError("The losses grew.")

    monkeypatch.setattr("kpop.training.train", broken)
    before = (example.path / "status.json").read_bytes()
    with pytest.raises(RunError, match="The losses grew"):
        make_example(tiny_config(), example.path, "cpu")
    assert (example.path / "status.json").read_bytes() == before
    assert [path.name for path in example.path.parent.iterdir()] == ["example-run"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="holds something else than an example run"):
        make_example(tiny_config(), tmp_path / "mine", "cpu")
    with pytest.raises(InputError, match="cannot name a run"):
        make_example(tiny_config(), tmp_path / "My run", "cpu")
    assert list_runs(tmp_path / "mine") is not None and (tmp_path / "mine" / "letter.txt").exists()


def test_it_takes_the_place_of_an_older_one(tiny_config, tmp_path):
    out = tmp_path / "example-run"
    out.mkdir()
    first = make_example(tiny_config(steps=1), str(out), "cpu")
    second = make_example(tiny_config(steps=2), str(out), "cpu")
    assert first.path == second.path and second.status.step == 2
    assert len(list((out / "compare").iterdir())) == len(list((out / "attribution").iterdir())) == 1


def test_none_of_it_loads_gradio():
    code = (
        "import sys, kpop.example, kpop.kept, kpop.attribution_file, kpop.commands\n"
        "assert 'gradio' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
