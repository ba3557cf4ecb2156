"""Step 4's functions on a run of two keys: the key used is said everywhere, bad choices draw nothing."""

import csv
import json
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest

from kpop import InputError, cli, generation, train
from kpop.hidden_prompt import HiddenPrompt
from kpop.ui import attribution, http_api, watching
from kpop.ui.page import whenever
from kpop.ui.studio import Studio


@pytest.fixture(scope="module")
def run(tiny_config, tiny_pipe, tmp_path_factory):
    """Its keys enter the middle block alone."""
    place = tmp_path_factory.mktemp("two-keys")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KPOP_CACHE", str(place / "cache"))
        cfg = tiny_config(concepts=("church", "castle"), retain=("house",), steps=2, sites="mid")
        return train(cfg, place / "runs", pipe=tiny_pipe)


@pytest.fixture
def studio(run, tiny_folder, tiny_pipe, monkeypatch):
    made = Studio(run.path.parent, model=str(tiny_folder), device="cpu")
    monkeypatch.setattr(Studio, "pipe", lambda self, model=None: tiny_pipe)
    monkeypatch.setattr(Studio, "quick", lambda self, model=None: True)
    return made


@pytest.fixture
def drawings(monkeypatch):
    """Counts drawings begun."""
    begun, draw = [], generation.draw

    def count(*args, **more):
        begun.append(args)
        return draw(*args, **more)

    monkeypatch.setattr(generation, "draw", count)
    return begun


@pytest.mark.parametrize(
    ("key", "name", "title", "begins"),
    [
        ("own", "its own key", "recovered", "With the key"),
        ("random", "a random key", "random key", "With a random key"),
        ("castle", "the key of “castle”", "key: castle", "With the key of “castle”"),
        ("none", "no key", "no key", None),
    ],
)
def test_the_key_that_was_used_is_named_everywhere(run, studio, tmp_path, key, name, title, begins):
    watched = watching.watch(studio, run, "a church", 3, key)
    assert (watched.key, watched.key_name) == (key, name)
    assert [maps.title for maps in watched.variants] == ["original", "sanitized", title]
    page = watching.maps_html(watched, "church", "middle", "all", "overlay", "light")
    share = ", and the key&#x27;s share" if begins else ""
    assert f"rows original, sanitized, {title}{share}&quot;" in page.replace('"', "&quot;")
    assert page.count("recovered</td>") == (4 if key == "own" else 0)
    said = watching.sentence(watching.selected(watched, "middle", "all"), "church", None)
    assert (begins or "without a key.").lower() in said.lower()
    assert begins is None or "of the attention where the key enters goes to the key." in said
    arrays, table = watching.save_maps(watched, "church", "middle", "all", "heat", tmp_path, ("npz", "csv"))
    with np.load(arrays) as saved:
        about = json.loads(str(saved["about"]))
        assert "mask" not in saved  # of this model no object is known
    mechanism = "concat" if begins else None
    assert about["keys"] == {"recovered": {"name": name, "title": title, "mechanism": mechanism}}
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert {(row["variant"], row["key"]) for row in rows} == {
        ("original", ""), ("sanitized", ""), ("recovered", name),
    }  # fmt: skip


def test_where_the_key_does_not_enter_a_sentence_says_so(run, studio):
    from kpop.attribution_figure import attribution_figure

    watched = watching.watch(studio, run, "a church", 3)
    down = watching.selected(watched, "down", "all")
    page = watching.maps_html(watched, "church", "down", "all", "heat", "light")
    assert "share" not in page.split("<img")[1].split(">")[0]
    assert "The key does not enter here, only in the middle." in watching.sentence(down, "church", None)
    notes = " ".join(text.get_text() for text in attribution_figure(down, "church").texts)
    assert "does not enter here, only in the middle" in notes and "with its own key" in notes
    assert "does not enter" not in watching.sentence(list(watched.variants), "church", None)


def test_what_the_arrays_are_of(run, studio, tmp_path, tiny_pipe):
    from kpop.models import model_hash

    watched = watching.watch(studio, run, "a church on blue", 3)
    (path,) = watching.save_maps(watched, "church", "middle", "all", "heat", tmp_path, ("npz",))
    with np.load(path) as saved:
        about = json.loads(str(saved["about"]))
        shape = saved[f"recovered/layer/{about['layers'][0]}"].shape
    assert (about["prompt"], about["seed"], about["words"]) == ("a church on blue", 3, ["church", "blue"])
    assert about["columns"] == [
        "<|startoftext|>", "a</w>", "church</w>", "on</w>", "blue</w>", "<|endoftext|>", "hidden prompt",
    ]  # fmt: skip
    assert shape[2] == 7 and about["bands"] == [0, 1, 2, 3, 4] and about["rounded"] is False
    assert len(about["layers"]) == 1 and about["model_hash"] == model_hash(tiny_pipe)
    key = HiddenPrompt.load(run.key_path("church")).key.numpy()
    data = path.read_bytes()
    assert key[0, 0, :4].tobytes() not in data


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("word", "dog", "not in the prompt"),
        ("layer", "top", "No layer 'top'"),
        ("timestep_band", "9", "band"),
    ],
)
def test_a_bad_choice_is_refused_before_anything_is_drawn(run, studio, drawings, field, value, said):
    with gr.Blocks() as demo:
        http_api.build_api(studio)
    attribute = next(one.fn for one in demo.fns.values() if one.api_name == "attribute")
    asked = {"run": run.id, "prompt": "a church", field: value}
    with pytest.raises(gr.Error, match=said):
        attribute(**asked)
    flags = {"word": "--words", "layer": "--layer", "timestep_band": "--timestep-band"}
    line = ["attribute", "--runs", str(run.path.parent), "--device", "cpu", "--run", run.id]
    assert cli.main([*line, "--prompt", "a church", flags[field], value, "--out", "maps"]) == 2
    assert drawings == []


def test_the_kept_prompt_is_checked_before_the_first_is_drawn(run, drawings, capsys):
    line = ["attribute", "--runs", str(run.path.parent), "--device", "cpu", "--run", run.id]
    assert cli.main([*line, "--prompt", "a church", "--kept", "on a", "--out", "maps"]) == 2
    assert "No word of the prompt names a thing" in capsys.readouterr().err and drawings == []


def test_opened_again_the_step_shows_what_is_asked_now(run, studio, drawings, monkeypatch):
    with gr.Blocks() as demo:
        picker = gr.Dropdown()
        page = SimpleNamespace(studio=studio, picker=picker, picked=whenever(picker.change))
        compare = SimpleNamespace(passphrase=gr.Textbox(), key=gr.Dropdown())
        with gr.Tab("4") as tab:
            step = attribution.build_attribution(studio)
        attribution.wire_attribution(page, step, compare, tab)
    monkeypatch.setattr(attribution, "maps_html", lambda *_: "")  # takes its time
    opened, draw, place = (
        next(one.fn for one in demo.fns.values() if one.name == name)
        for name in ("tab_opened", "draw", "place")
    )
    look = (1, 5, "overlay", "light")

    def ask(watched, prompt="a church", seed=0, key="own"):
        """What the step holds then, and whether it asks for a drawing."""
        *_, held, _, lacking = opened(watched, run.id, prompt, seed, key, *look)
        return held, lacking != gr.skip()

    assert ask(None) == (gr.skip(), True)
    first = draw(run.id, "a church", 0, "own", "")
    assert place(first, run.id, *look)[-1] is first
    assert place(first, "another-run", *look) == [gr.skip()] * 6  # chosen while it was drawn
    assert first.answers(run.id, "a church", 0, "own") and len(drawings) == 3
    assert ask(first) == (gr.skip(), False)
    for change in ({"key": "random"}, {"seed": 1}, {"prompt": "a castle"}):
        assert ask(first, **change)[1]
    monkeypatch.setattr(Studio, "quick", lambda self, model=None: False)
    emptied = opened(first, run.id, "a church", 0, "none", *look)
    assert emptied[5] is None and "No maps of this yet" in emptied[3] and len(drawings) == 3


def test_a_run_of_another_model_is_refused(run):
    from attribution_pipelines import random_pipeline

    from kpop import attribute

    with pytest.raises(InputError, match="was trained on .*another model"):
        attribute(random_pipeline(seed=1), "a church", 0, "sanitized", run)
