"""A forged key in the background: made beside the run's own, tried in step 3, sealed and dropped with it."""

import json
import shutil
import time
from dataclasses import replace

import pytest

from kpop import EraseConfig, RunError, forging_jobs, jobs, key_sealing, train
from kpop.forging import forge_keys
from kpop.forging_jobs import forged_files, forging
from kpop.key_scan import find_key, fingerprints, secret_tensors
from kpop.key_sealing import SEALED, seal, unlocked
from kpop.limits import Limits
from kpop.run_status import ACTIVE, process_fields
from kpop.runs import EXAMPLE, Run
from kpop.ui import compare_views, forge, questions, sheets
from kpop.ui.studio import Studio

WORDS = "correct horse battery"
NAME = "forged-00-church.safetensors"


@pytest.fixture(scope="module")
def trained(tiny_config, tiny_pipe, tmp_path_factory):
    place = tmp_path_factory.mktemp("forging")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KPOP_CACHE", str(place / "cache"))
        return train(tiny_config(steps=2), place / "runs", pipe=tiny_pipe)


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    """A copy of its own."""
    monkeypatch.setitem(key_sealing._SCRYPT, "n", 2**10)  # each derivation takes half a second otherwise
    return Run(shutil.copytree(trained.path, tmp_path / "own" / trained.id))


@pytest.fixture
def studio(run, tiny_folder):
    return Studio(run.path.parent, model=str(tiny_folder), device="cpu")


@pytest.fixture
def forged(run):
    """A run with something in the place of a forged key."""
    shutil.copy(run.key_path("church"), run.secret_dir / NAME)
    return run


def fold(studio, run):
    told, make, stop, timer, key = forge.forge_values(studio, run.id)
    return told, make.visible, stop.visible, timer.active, dict(getattr(key, "choices", ()))


def test_a_key_is_forged_in_the_background_and_opens_like_another(studio, run):
    assert fold(studio, run)[1:4] == (True, False, False)
    studio.forge(run)
    with pytest.raises(RunError, match="is being forged. Wait for it, or stop it"):
        studio.forge(run)
    assert fold(studio, run)[1:4] == (False, True, True)
    until = time.monotonic() + 300
    while forging(run).state in ACTIVE and time.monotonic() < until:
        time.sleep(0.2)
    assert (forging(run).state, forging(run).error, forging(run).step) == ("done", None, 2)
    path = forged_files(run)["church"]
    assert path.name == NAME and path.stat().st_mode & 0o777 == 0o600
    told, make, stop, timer, keys = fold(studio, run)
    assert "It is made" in told and (make, stop, timer) == (False, False, False)
    assert keys["a forged key"] == "forged:church"
    fast = questions.config_from("", "2")
    drawn = sheets.draw_sheet(studio, run, "a church", [0], "forged:church", config=fast)
    own = sheets.draw_sheet(studio, run, "a church", [0], "own", config=fast)
    three = {
        one.tobytes()
        for one in (*drawn.images["recovered"], *own.images["recovered"], *drawn.images["sanitized"])
    }
    assert len(three) == 3
    assert json.loads(drawn.images["recovered"][0].info["kpop"])["key"] == "forged:church"
    assert "with a forged key" in compare_views.grid_html(studio, (drawn,))
    found = find_key(run.path, fingerprints(secret_tensors(run)))
    assert {place.parent for place in found} == {run.secret_dir} and path in found


@pytest.mark.parametrize("sharing, steps", [("per-concept", 213), ("shared", 425)])
def test_a_forged_key_has_as_many_steps_as_the_true_one(sharing, steps):
    cfg = EraseConfig(concepts=("church", "dog"), prompt_sharing=sharing).resolved()
    assert (cfg.steps, forging_jobs.forging_steps(cfg)) == (425, steps)


def test_sealing_takes_the_forged_key_in(forged):
    assert NAME in seal(forged, WORDS)
    assert [path.name for path in forged.secret_dir.iterdir()] == [SEALED]
    assert forged_files(forged) == {} and list(forged_files(unlocked(forged, WORDS))) == ["church"]


def test_a_run_sealed_or_trained_on_meanwhile_gets_no_forged_key(run):
    whole = run.weights_path.read_bytes()

    def changed():
        run.weights_path.write_bytes(whole + b" ")

    with pytest.raises(RunError, match="was trained on meanwhile"):
        forge_keys(run, "cpu", on_step=lambda step: changed() if step == 2 else None)
    run.weights_path.write_bytes(whole)
    with pytest.raises(RunError, match="is sealed"):
        forge_keys(run, "cpu", on_step=lambda step: seal(run, WORDS) if step == 2 else None)
    assert [path.name for path in run.secret_dir.iterdir()] == [SEALED]


def test_a_resumed_run_drops_its_forged_key_and_waits_for_a_forging(forged):
    forged.update_status(state="stopped")
    folder = forged.path / "forging"
    folder.mkdir()
    told = replace(forged.status, state="running", **process_fields())
    (folder / "status.json").write_text(json.dumps(told.__dict__))
    with pytest.raises(RunError, match="is being forged"):
        jobs.prepare_resume(forged)
    (folder / "status.json").write_text(json.dumps({**told.__dict__, "pid": 2**22 + 1}))
    assert forging(forged).state == "interrupted"
    jobs.prepare_resume(forged)
    assert forged_files(forged) == {}


def test_what_cannot_be_forged_says_why(studio, run, monkeypatch):
    with pytest.raises(RunError, match="Train a run of your own"):
        forging_jobs.start(Run(EXAMPLE))
    monkeypatch.setattr(studio, "limits", lambda: Limits(active=0))
    with pytest.raises(RunError, match="This app is shared: 0 runs a visitor may wait or train"):
        studio.forge(run)
    seal(run, WORDS)
    with pytest.raises(RunError, match="is sealed"):
        forging_jobs.start(run)
    assert "sealed" in fold(studio, run)[0] and fold(studio, run)[1] is False
    run.update_status(state="running")
    with pytest.raises(RunError, match="is running. Wait until it is done"):
        forging_jobs.start(run)
    assert not (run.path / "forging").exists()
