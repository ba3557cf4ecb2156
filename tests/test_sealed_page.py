"""Steps 3 and 4 with a sealed key: two rows without its passphrase, three with it, and nothing kept of it."""

import json
import shutil
from types import SimpleNamespace

import pytest
from gradio.context import LocalContext

from kpop import InputError, RunError, key_sealing, train
from kpop.exposure import Exposure
from kpop.key_sealing import SEALED, seal
from kpop.runs import Run
from kpop.ui import compare_values, compare_views, questions, release, sheets, watching, xy_grid
from kpop.ui.studio import Studio

WORDS = "correct horse battery"
NOTE = "The key of this run is sealed, so nothing is drawn with it. Give its passphrase in step 3."
FAST = questions.config_from("", "2")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A cheaper derivation: each takes half a second otherwise."""
    monkeypatch.setitem(key_sealing._SCRYPT, "n", 2**10)


@pytest.fixture(scope="module")
def trained(tiny_config, tiny_pipe, tmp_path_factory):
    place = tmp_path_factory.mktemp("sealed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KPOP_CACHE", str(place / "cache"))
        return train(tiny_config(steps=2), place / "runs", pipe=tiny_pipe)


@pytest.fixture
def run(trained, tmp_path):
    """A copy of its own, sealed."""
    run = Run(shutil.copytree(trained.path, tmp_path / "runs" / trained.id))
    seal(run, WORDS)
    return run


@pytest.fixture
def studio(run, tiny_folder):
    return Studio(run.path.parent, model=str(tiny_folder), device="cpu")


def everything_below(folder):
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_without_its_passphrase_two_rows_are_drawn_and_a_sentence_says_why(studio, run):
    drawn = questions.draw_both(studio, run, "a church", [0], "own", config=FAST)
    assert list(drawn[0].images) == ["original", "sanitized"]
    assert NOTE in compare_views.grid_html(studio, drawn)
    watched = watching.watch(studio, run, "a church", 0)
    assert [each.variant for each in watched.variants] == ["original", "sanitized"]
    assert NOTE in watching.maps_html(watched, "church", "all", "all", "heat", "light")
    one, two = (xy_grid.axis(studio, run, kind, text, None) for kind, text in (("seed", "0"), ("steps", "2")))
    rows = xy_grid.cells_of(studio, run, "a church", 0, one, two)
    assert xy_grid.draw_grid(studio, run, "own", "sanitized", rows)
    with pytest.raises(RunError, match=NOTE):
        xy_grid.draw_grid(studio, run, "own", "recovered", rows)


def test_a_picture_without_the_key_needs_no_passphrase(studio, run):
    drawn = sheets.draw_sheet(studio, run, "a church", [0], "none", config=FAST)
    assert list(drawn.images) == ["original", "sanitized", "recovered"]


def test_the_passphrase_opens_it_for_one_drawing_and_stays_nowhere(studio, run, trained, tiny_folder):
    open_studio = Studio(trained.path.parent, model=str(tiny_folder), device="cpu")
    ours = sheets.draw_sheet(open_studio, trained, "a church", [0], "own", config=FAST)
    drawn = sheets.draw_sheet(studio, run, "a church", [0], "own", passphrase=WORDS)
    assert sheets.saved_sheet(run, "a church", [0]) is None and NOTE not in compare_views.grid_html(
        studio, (drawn,)
    )
    fast = questions.draw_both(studio, run, "a church", [0], "own", config=FAST, passphrase=WORDS)[0]
    assert fast.images["recovered"][0].tobytes() == ours.images["recovered"][0].tobytes()
    watched = watching.watch(studio, run, "a church", 0, passphrase=WORDS)
    assert [each.variant for each in watched.variants] == ["original", "sanitized", "recovered"]
    one, two = (xy_grid.axis(studio, run, kind, text, None) for kind, text in (("seed", "0"), ("steps", "2")))
    rows = xy_grid.cells_of(studio, run, "a church", 0, one, two)
    cells = xy_grid.draw_grid(studio, run, "own", "recovered", rows, passphrase=WORDS)
    assert cells[0][0].tobytes() == ours.images["recovered"][0].tobytes()
    told = json.loads(cells[0][0].info["kpop"])
    assert told["key"] == "own" and WORDS not in str(told) + repr(drawn) + repr(watched) + repr(studio)
    assert [path.name for path in run.secret_dir.iterdir()] == [SEALED]
    assert WORDS.encode() not in everything_below(run.path.parent)


def test_a_wrong_passphrase_is_refused_in_the_usual_sentence(studio, run):
    for draw in (
        lambda: sheets.draw_sheet(studio, run, "a church", [0], "own", config=FAST, passphrase="another one"),
        lambda: watching.watch(studio, run, "a church", 0, passphrase="another one"),
    ):
        with pytest.raises(InputError, match="The passphrase is wrong, or the sealed key was changed"):
            draw()


def test_the_field_is_there_only_where_the_key_is_sealed(studio, run):
    *_, field = compare_values.fields_of(studio, run.id)
    assert (field.visible, field.value) == (True, "")
    key_sealing.open_seal(run, WORDS)
    assert compare_values.fields_of(studio, run.id)[-1].visible is False


def test_who_guesses_passphrases_on_a_shared_app_is_slowed_down(run, tiny_folder):
    studio = Studio(run.path.parent, str(tiny_folder), "cpu", Exposure(shared=True))
    asks = LocalContext.request.set(SimpleNamespace(client=SimpleNamespace(host="10.0.0.7")))
    try:
        assert sheets.opened(studio, run, WORDS).unlocked
        for _ in range(10):
            with pytest.raises(InputError, match="passphrase is wrong"):
                sheets.opened(studio, run, "another one")
        with pytest.raises(
            RunError, match="Too many wrong passphrases from this address. Try again in .. s."
        ):
            sheets.opened(studio, run, WORDS)
        with pytest.raises(RunError, match="Too many wrong passphrases"):
            release.zipped(studio, run, ["delta"], WORDS, print)
        LocalContext.request.set(SimpleNamespace(client=SimpleNamespace(host="10.0.0.8")))
        assert sheets.opened(studio, run, WORDS).unlocked
    finally:
        LocalContext.request.reset(asks)
