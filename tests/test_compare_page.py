"""Step 3 without a browser: keys, two runs, an X/Y grid, and what a saved picture tells."""

import dataclasses
import io
import json
import shutil
import time
from dataclasses import replace

import pytest
from PIL import Image, PngImagePlugin

from kpop import EraseConfig, InputError, RunError, jobs, models, train
from kpop.alike_runs import Alike, find_alike
from kpop.config import GenerationConfig
from kpop.exposure import Exposure
from kpop.kept import png_bytes
from kpop.limits import ROOM, Limits
from kpop.picture_metadata import VARIANTS, read_metadata
from kpop.runs import Run, create_run
from kpop.ui import (
    compare,
    compare_values,
    compare_views,
    questions,
    sheets,
    watching,
    xy_grid,
    xy_trainings,
)
from kpop.ui.pictures import enlarge
from kpop.ui.run_picker import told_apart
from kpop.ui.studio import Studio
from kpop.ui.words import veil


@pytest.fixture(scope="module")
def runs(tiny_config, tiny_pipe, tmp_path_factory):
    """Two by KPOP, with lambda 0.3 and 0.7, and one by ESD."""
    place = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KPOP_CACHE", str(place / "cache"))
        found = [
            train(tiny_config(steps=2, **changes), place / "runs", pipe=tiny_pipe)
            for changes in ({"lambda_": 0.3}, {"lambda_": 0.7}, {"method": "esd"})
        ]
    return found


@pytest.fixture
def studio(runs, tiny_folder):
    return Studio(runs[0].path.parent, model=str(tiny_folder), device="cpu")


def pixels(image):
    return list(image.getdata())


def test_runs_are_told_apart_by_what_differs(runs):
    assert told_apart(runs) == ["church, lambda 0.3", "church, lambda 0.7", "church, by ESD"]
    assert told_apart(runs[:1]) == ["church"]


def test_no_name_of_a_run_tells_its_seed_or_a_path(tmp_path):
    config = EraseConfig(concepts=("church",), seed=11)
    others = ({"seed": 12}, {"seed": 13, "base_run": "/home/ann/runs/20260101-000000-dog-ab12"})
    runs = [create_run(replace(config, **told), tmp_path) for told in ({}, *others)]
    for run, made in zip(runs, (0.0, 60.0, 120.0), strict=True):
        run.update_status(made=time.time() - 600 - made)
    assert told_apart(runs) == ["church, 10 min ago", "church, 11 min ago", "church, 12 min ago"]


def test_keys_of_others_are_not_lent(studio, runs, monkeypatch):
    first, second, esd = runs
    assert [run.id for run in sheets.key_lenders(studio, first)] == [second.id]
    with monkeypatch.context() as patch:
        patch.setattr(studio, "asking", lambda: "somebody else")
        assert sheets.key_lenders(studio, first) == []
    value = f"run:{second.id}"
    assert value in [key for _, key in sheets.key_choices(first, [second])]
    assert sheets.key_value(first, value, [second]) == second.key_path("church")
    with pytest.raises(InputError, match="only a key of your own"):
        sheets.key_value(first, value)
    with pytest.raises(InputError, match="Unknown key"):
        sheets.key_value(first, str(second.key_path("church")), [second])


def test_own_key_random_key_and_no_key_draw_three_pictures(studio, runs):
    fast = questions.config_from("", "3")
    drawn = {
        key: sheets.draw_sheet(studio, runs[0], "a church", [0], key, config=fast).images
        for key in ("own", "random", "none")
    }
    shown = {key: pixels(images["recovered"][0]) for key, images in drawn.items()}
    assert shown["none"] == pixels(drawn["none"]["sanitized"][0])
    assert len({tuple(value) for value in shown.values()}) == 3


def test_two_runs_stand_side_by_side_from_the_same_noise(studio, runs):
    fast = questions.config_from("", "3")
    drawn = questions.draw_both(studio, runs[0], "a church", [0, 1], "own", runs[2].id, fast)
    rows = compare_views.layers(studio, drawn)
    assert list(rows) == ["original", "sanitized", "recovered", "rival sanitized"]
    assert rows["rival sanitized"].note == "church, by ESD: after forgetting"
    alone = sheets.draw_sheet(studio, runs[2], "a church", [0, 1], "own", config=fast)
    assert pixels(alone.images["original"][1]) == pixels(rows["original"].images[1])
    assert pixels(alone.images["sanitized"][1]) == pixels(rows["rival sanitized"].images[1])
    html, *_, pair, seeds, _ = compare.show(studio, drawn, "sanitized|rival sanitized", compare_views.HOVER)
    assert html.count('class="sheet-row') == 4 and pair.value == "sanitized|rival sanitized"
    with pytest.raises(RunError, match="cannot stand beside"):
        questions.rival_of(studio, runs[0], runs[0].id)


def test_a_saved_picture_brings_its_settings_back(studio, runs):
    config = questions.config_from("2.5", "3")
    drawn = sheets.draw_sheet(studio, runs[0], "a church", [7], "random", config=config)
    saved = png_bytes(enlarge(drawn.images["recovered"][0]))
    told = read_metadata(saved)
    assert (told.prompt, told.seed, told.variant, told.run) == ("a church", 7, "recovered", runs[0].id)
    run_id, prompt, seeds, key, guidance, sampling, held = questions.restored(studio, saved, None)
    assert held is None
    assert (run_id, prompt, seeds, key.value) == (runs[0].id, "a church", "7", "random")
    assert (guidance, sampling) == ("2.5", "3")
    again = sheets.draw_sheet(studio, runs[0], prompt, [7], key.value, config=config)
    assert pixels(again.images["recovered"][0]) == pixels(drawn.images["recovered"][0])
    assert sheets.saved_sheet(runs[0], "a church", [7], "random") is None  # drawn in a way of its own


def png(text=None, name="kpop", size=(2, 2), packed=False):
    info = PngImagePlugin.PngInfo()
    if text is not None:
        info.add_itxt(name, text if isinstance(text, str) else json.dumps(text), zip=packed)
    file = io.BytesIO()
    Image.new("RGB", size).save(file, "PNG", pnginfo=info)
    return file.getvalue()


STORY = {
    "prompt": "a church",
    "seed": 1,
    "variant": "sanitized",
    "model": "emoji",
    "run": "r-1",
    "config": {},
}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a PNG"),
        (b"\x89PNG\r\n\x1a\nnonsense", "not a PNG"),
        (b"0" * 5_000_000, "too large"),
        (png(), "does not say"),
        (png("{"), "does not say"),
        (png("[" * 10_000), "does not say"),
        (png("x" * 30_000), "does not say"),
        (png("x" * 20_000_000, packed=True), "not a PNG"),
        (png([1]), "does not say"),
        (png({**STORY, "config": None}), "does not say"),
        (png(STORY, size=(5000, 1)), "4096 pixels"),
        (png({**STORY, "seed": "1"}), "seed cannot be used"),
        (png({**STORY, "seed": -1}), "seed cannot be used"),
        (png({**STORY, "seed": True}), "seed cannot be used"),
        (png({**STORY, "variant": "other"}), "variant cannot be used"),
        (png({**STORY, "run": "../../etc"}), "run cannot be used"),
        (png({**STORY, "prompt": ["a"]}), "prompt cannot be used"),
        (png({**STORY, "prompt": "a" * 401}), "prompt cannot be used"),
        (png({**STORY, "key": "own\nnone"}), "key cannot be used"),
        (png({**STORY, "config": {"steps": 10**9}}), "steps must be"),
        (png({**STORY, "config": {"path": "/etc"}}), "Unknown setting"),
    ],
)
def test_a_picture_is_not_trusted(data, words):
    with pytest.raises(InputError, match=words):
        read_metadata(data)


def test_a_picture_of_a_run_or_key_that_is_not_here_is_refused(studio, runs, monkeypatch):
    with pytest.raises(RunError, match="There is no run"):
        questions.restored(studio, png(STORY), None)
    monkeypatch.setattr(studio, "asking", lambda: "somebody else")
    with pytest.raises(InputError, match="not yours"):
        told = {**STORY, "run": runs[0].id, "key": f"run:{runs[1].id}"}
        questions.restored(studio, png(told), None)
    with pytest.raises(InputError, match="another base model"):
        questions.restored(studio, png({**STORY, "run": runs[0].id, "model_hash": "0" * 64}), None)


def test_an_xy_grid_draws_each_cell_as_asked(studio, runs):
    first, second, _ = runs
    across = xy_grid.axis(studio, first, "run", "", [first.id, second.id])
    down = xy_grid.axis(studio, first, "steps", "2, 3", None)
    cells = xy_grid.cells_of(studio, first, "a church", 9, across, down)
    images = xy_grid.draw_grid(studio, runs[0], "own", "sanitized", cells)
    fast = questions.config_from("", "3")
    alone = sheets.draw_sheet(studio, second, "a church", [9], "own", config=fast).images["sanitized"][0]
    assert pixels(images[1][1]) == pixels(alone) != pixels(images[1][0])
    html = xy_grid.grid_html(studio, first, "sanitized", across, down, cells, images)
    assert html.count("<img") == 4 and "lambda 0.7" in html and "steps 3" in html


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("guidance", "1, x", "must be a number"),
        ("steps", "2.5", "must be a whole number"),
        ("seed", "0-99", "At most 8 seeds"),
        ("prompt", " | ", "Write 1 to 8 different prompts"),
        ("guidance", "1, 1", "Write 1 to 8 different guidance"),
        ("run", "", "Write 1 to 8 different runs"),
        ("colour", "1", "An axis is one of"),
        ("k", "1.5", "must be a whole number"),
        ("lambda", "", "Write 1 to 8 different lambdas"),
    ],
)
def test_an_axis_that_cannot_be_used_is_told_in_words(studio, runs, kind, text, words):
    with pytest.raises(InputError, match=words):
        xy_grid.axis(studio, runs[0], kind, text, [])


def test_one_axis_twice_or_too_many_cells_are_refused(studio, runs):
    seeds = xy_grid.axis(studio, runs[0], "seed", "0-7", None)
    steps = xy_grid.axis(studio, runs[0], "steps", "1,2,3,4,5", None)
    with pytest.raises(InputError, match="two different axes"):
        xy_grid.cells_of(studio, runs[0], "a church", 0, seeds, seeds)
    with pytest.raises(InputError, match="At most 36 pictures"):
        xy_grid.cells_of(studio, runs[0], "a church", 0, seeds, steps)


def test_a_grid_over_lambda_finds_the_runs_alike_and_queues_the_missing(studio, runs, monkeypatch):
    first, second, esd = runs
    across = xy_grid.axis(studio, first, "lambda", "0.3, 0.7, 2", None)
    down = xy_grid.axis(studio, first, "steps", "2", None)
    (cells,) = xy_grid.cells_of(studio, first, "a church", 9, across, down)
    found = [cell.found for cell in cells]
    assert [one.done and one.done.id for one in found] == [first.id, second.id, None]
    images = xy_grid.draw_grid(studio, first, "own", "sanitized", [cells])
    again = xy_grid.draw_grid(
        studio, first, "own", "sanitized", xy_grid.cells_of(
            studio, first, "a church", 9, xy_grid.axis(studio, first, "run", "", [second.id]), down
        )
    )  # fmt: skip
    assert pixels(images[0][1]) == pixels(again[0][0]) and images[0][2] is None
    html = xy_grid.grid_html(studio, first, "sanitized", across, down, [cells], images)
    assert html.count("<img") == 2 and html.count("not trained yet") == 1
    assert "1 of 3 runs is missing" in xy_trainings.missing_html(studio, found)
    monkeypatch.setattr(jobs, "start_next", lambda *_: [])
    queued, why = xy_trainings.train_missing(studio, first, found, "local")
    try:
        assert (len(queued), why, queued[0].config.lambda_) == (1, "", 2.0)
        ((_, _, cell),) = xy_grid.cells_of(studio, first, "a church", 9, across, down)
        assert xy_trainings.waiting_word(cell.found) == "waits to be trained"
        assert xy_trainings.missing_html(studio, [cell.found]).startswith(
            '<p class="fine" role="status"><b>1 of 1 waits or trains.</b> Draw the grid again'
        )
        with pytest.raises(RunError, match="No run of this grid is missing"):
            xy_trainings.train_missing(studio, first, [cell.found], "local")
    finally:
        shutil.rmtree(queued[0].path)
    with pytest.raises(InputError, match="ESD has no use for lambda"):
        xy_grid.cells_of(studio, esd, "a church", 9, across, down)


def test_missing_runs_are_queued_within_the_visitor_s_limits(runs, tiny_folder, tmp_path, monkeypatch):
    room = Exposure(shared=True, limits=Limits(active=2, kept=9))
    studio = Studio(tmp_path, model=str(tiny_folder), device="cpu", exposure=room)
    monkeypatch.setattr(jobs, "start_next", lambda *_: [])
    wanted = [find_alike(runs[0], {"k": k}, []) for k in (2, 3, 4)]
    with pytest.raises(RunError, match="Somebody else started this run"):
        xy_trainings.train_missing(studio, runs[0], wanted, "ann")
    monkeypatch.setattr(Studio, "may_change", lambda studio, run, who: who == "ann")
    queued, why = xy_trainings.train_missing(studio, runs[0], wanted, "ann")
    assert [run.config.prompt_tokens_factor for run in queued] == [2, 3]
    assert why.startswith("This app is shared: 2 runs a visitor may wait or train.")
    assert {run.status.owner for run in queued} == {"ann"}
    with pytest.raises(RunError, match="2 runs a visitor"):
        xy_trainings.train_missing(studio, runs[0], wanted, "ann")


@pytest.fixture
def weapon(runs, tmp_path):
    """A copy of a run that is said to forget a weapon, in a runs folder of its own."""
    run = Run(shutil.copytree(runs[0].path, tmp_path / "20260101-000000-weapon-ab12"))
    told = json.loads((run.path / "config.json").read_text())
    (run.path / "config.json").write_text(json.dumps({**told, "concepts": ["weapon"]}))
    (run.secret_dir / runs[0].key_path().name).rename(run.secret_dir / "key-00-weapon.safetensors")
    return Run(run.path)


def drawn_of(run, prompt):
    """A sheet of pictures with fine black and white stripes."""
    stripes = Image.new("RGB", (64, 64))
    stripes.putdata([(255 * (i % 2),) * 3 for i in range(64 * 64)])
    images, said = dict.fromkeys(VARIANTS, [stripes]), dict.fromkeys(VARIANTS, [""])
    return (sheets.Sheet(run.id, prompt, (0,), "own", images, said),)


def spread(image):
    low, high = image.convert("L").getextrema()
    return high - low


@pytest.mark.parametrize(
    ("hides", "prompt", "classes", "hidden"),
    [
        ("weapon", "a weapon", "veiled", (True, False)),
        ("weapon", "a castle", "veiled", (True, False)),
        ("church", "a knife", "veiled whole", (True, True)),
        ("church", "a castle", "", (False, False)),
    ],
)
def test_sensitive_pictures_are_covered_in_every_view(studio, runs, weapon, hides, prompt, classes, hidden):
    run = weapon if hides == "weapon" else runs[0]
    here = dataclasses.replace(studio, runs_dir=run.path.parent)
    drawn, pair = drawn_of(run, prompt), "original|sanitized"
    assert veil([run], [prompt]) == classes
    cover = f'<div class="{classes}">'
    assert compare_views.grid_html(here, drawn).startswith(f'{cover}<div class="sheet"') is bool(classes)
    hover = compare_views.hover_html(here, drawn, pair)
    wall = f'{cover}<div class="wall flips"><figure class="pic sanitized over-original">'
    assert (wall in hover) is bool(classes)
    slider, _, button = compare.two_pictures(here, drawn, pair, "0", compare_views.SLIDER)
    assert tuple(spread(side) < 100 for side in slider) == hidden and button.visible is bool(classes)
    bare, _ = compare_views.slider_value(here, drawn, pair, "0", bare=True)
    assert all(spread(side) > 200 for side in bare)
    seeds, steps = (xy_grid.Axis(kind, (1,), (kind,)) for kind in ("seed", "steps"))
    rows, cells = [[xy_grid.Cell(Alike(run.config, run), prompt, 0)]], [[drawn[0].images["original"][0]]]
    grid = xy_grid.grid_html(here, run, "original", seeds, steps, rows, cells, prompt)
    assert grid.startswith(f'{cover}<div class="sheet"') is bool(classes)
    assert watching.watch(here, run, prompt, 0).veil == classes


def test_a_grid_and_the_heads_can_be_seen_with_anothers_key(studio, runs):
    first, second, _ = runs
    key, fast = f"run:{second.id}", questions.config_from("", "3")
    across = xy_grid.axis(studio, first, "run", "", [first.id, second.id])
    down = xy_grid.axis(studio, first, "steps", "3", None)
    cells = xy_grid.cells_of(studio, first, "a church", 9, across, down)
    lent, own = xy_grid.draw_grid(studio, first, key, "recovered", cells)[0]
    alone = sheets.draw_sheet(studio, first, "a church", [9], key, config=fast).images["recovered"][0]
    assert pixels(lent) == pixels(alone)
    its = sheets.draw_sheet(studio, second, "a church", [9], "own", config=fast).images["recovered"][0]
    assert pixels(own) == pixels(its)
    assert [json.loads(image.info["kpop"])["key"] for image in (lent, own)] == [key, "own"]
    recovered = watching.watch(studio, first, "a church", 9, key).variants[2]
    assert recovered.hidden_prompt_layers


@pytest.mark.parametrize("key", ["none", "random"])
def test_a_grids_picture_brings_its_key_back(studio, runs, key):
    seeds, steps = (
        xy_grid.axis(studio, runs[0], kind, text, None) for kind, text in (("seed", "4"), ("steps", "3"))
    )
    cells = xy_grid.cells_of(studio, runs[0], "a church", 0, seeds, steps)
    drawn = xy_grid.draw_grid(studio, runs[0], key, "recovered", cells)[0][0]
    assert questions.restored(studio, png_bytes(drawn), None)[3].value == key


def test_an_opened_step_shows_what_is_kept_and_asks_for_what_is_not(studio, runs):
    asked = (studio, runs[0], "a castle", "3", "none", None, compare_views.GRID)
    shown, lacks = compare_values.opening(*asked, None)
    assert lacks and "waiting" in shown[0] and len(shown) == 7
    drawn = sheets.draw_sheet(studio, runs[0], "a castle", [3], "none")
    shown, lacks = compare_values.opening(*asked, None)
    assert not lacks and "a castle, sanitized, seed 3" in shown[0]
    assert compare_values.opening(*asked, (drawn,))[1] is False


def test_a_picture_drawn_in_a_way_of_its_own_is_drawn_that_way_again(studio, runs, tiny_pipe):
    asked = GenerationConfig(
        steps=3, negative_prompt="a castle", width=32, scheduler="euler", prompt_branch="both", batch_size=1
    )
    once = sheets.draw_sheet(studio, runs[0], "a church", [5], "own", config=asked).images["recovered"][0]
    *_, guidance, sampling, held = questions.restored(studio, png_bytes(once), None)
    own = models.own_side(tiny_pipe)
    assert questions.held_in_words(held, own) == (
        "Drawn as the saved picture was: without “a castle” (negative prompt), 32 by "
        f"{own} pixels, scheduler euler, the key in both halves of guidance."
    )
    config = questions.config_from(guidance, sampling, held)
    again = sheets.draw_sheet(studio, runs[0], "a church", [5], "own", config=config).images["recovered"][0]
    assert pixels(again) == pixels(once)
    assert questions.config_from("", "2", held).steps == 2


def test_a_picture_from_anybody_asks_for_no_more_than_a_visitor_may(studio, runs, monkeypatch):
    monkeypatch.setattr(studio, "limits", lambda: ROOM)
    told = {**STORY, "run": runs[0].id}
    with pytest.raises(InputError, match="pictures have at most .* pixels a side, not 4096"):
        questions.restored(studio, png({**told, "config": {"height": 4096}}), None)
