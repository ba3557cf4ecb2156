"""Step Release through the page's own function: what was measured is told, and one zip a state is kept."""

import json
import re
import shutil
import zipfile
from collections import namedtuple
from dataclasses import asdict

import pytest
from safetensors.torch import load_file, save_file

from kpop import InputError, RunError, cli, evaluation_jobs, open_run, train
from kpop.evaluation_plan import Ask
from kpop.run_status import RunStatus, change_status
from kpop.ui.release import zipped
from kpop.ui.studio import Studio


@pytest.fixture(scope="module")
def trained(tiny_config, tiny_pipe, tmp_path_factory):
    return train(tiny_config(steps=2), tmp_path_factory.mktemp("trained"), pipe=tiny_pipe)


@pytest.fixture
def run(trained, tmp_path):
    """A copy in a runs folder of its own."""
    return open_run(shutil.copytree(trained.path, tmp_path / "runs" / trained.id))


@pytest.fixture
def studio(run, tiny_folder):
    return Studio(run.path.parent, str(tiny_folder), "cpu")


def made(studio, run, forms=("delta",)):
    """Path of the zip and the card."""
    return zipped(studio, run, list(forms), "", lambda words: None)


def evaluated(run, tiny_pipe, monkeypatch):
    """An evaluation as the page starts it, done in this process."""
    monkeypatch.setattr(evaluation_jobs, "_start", lambda job: None)
    job = evaluation_jobs.start(run, Ask("objects", ("church", "castle"), 1), device="cpu", pipe=tiny_pipe)
    assert cli.main(job.command_line()) == 0
    change_status(job.path, None, {"state": "done"})
    return job


def older(job, name, weights=None, state="done"):
    """A copy of an evaluation that was started before it, told to be of other weights or in another state."""
    copy = evaluation_jobs.EvaluationJob(shutil.copytree(job.path, job.path.with_name(name)))
    change_status(copy.path, None, {"made": job.status.made - 100, "state": state})
    if weights:
        found = json.loads((copy.path / "metrics.json").read_text())
        found["settings"]["weights"] = weights
        (copy.path / "metrics.json").write_text(json.dumps(found))
    return copy


def test_the_card_tells_what_the_newest_evaluation_of_these_weights_found(
    studio, run, tiny_pipe, monkeypatch
):
    assert "this run was not evaluated" in made(studio, run)[1]
    job = evaluated(run, tiny_pipe, monkeypatch)
    _, card = made(studio, run)
    assert "| word | role | base | this model | with the key |" in card
    rows = re.findall(r"^\| (church|castle) \| (erased|retained) \|", card, re.MULTILINE)
    assert rows == [("church", "erased"), ("castle", "retained")]
    older(job, "objects-20260101-000000-0000", weights="0" * 16)
    older(job, "objects-20260101-000000-0001", state="stopped")
    evaluation_jobs.delete(job)
    assert "this run was not evaluated" in made(studio, run)[1]


def test_an_evaluation_of_a_prompt_list_is_told_by_its_figures(studio, run):
    def rate(value):
        return {"value": value, "low": value - 2, "high": value + 2, "n": 4}

    folder = run.path / "evaluations" / "style-20260101-000000-0abc"
    folder.mkdir(parents=True)
    told = {"protocol": "style", "words": [], "pictures": 2, "seeds": "", "device": "cpu", "prompts": None,
            "lines": [], "variants": []}  # fmt: skip
    (folder / "request.json").write_text(json.dumps(told))
    (folder / "status.json").write_text(json.dumps(asdict(RunStatus("done", "local"))))
    metrics = {
        "protocol": "style", "judge": "j", "judge_accuracy": 98.0, "pictures": {"erased": 4},
        "figures": {"erased": {"ESR-1": {"original": rate(10.0), "sanitized": rate(90.0)}}},
        "settings": {"run": run.id, "weights": run.weights_stamp()},
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(metrics))
    card = made(studio, run)[1]
    assert "4 prompts (style), a picture each" in card
    assert "| prompts | figure | base | this model |" in card
    assert "| erased | ESR-1 | 10 (8 to 12) | 90 (88 to 92) |" in card


def test_one_release_of_a_run_and_its_weights_is_kept(studio, run, monkeypatch):
    first, _ = made(studio, run)
    with zipfile.ZipFile(first) as archive:
        assert "without-church/delta.safetensors" in archive.namelist()
    written = first.stat().st_ino
    again, _ = made(studio, run)
    assert (again, again.stat().st_ino) == (first, written)
    other, _ = made(studio, run, ["diffusers"])
    assert not first.exists() and [*studio.scratch().rglob("*.zip")] == [other]
    save_file(
        {n: t + 1 for n, t in load_file(run.weights_path).items()}, run.weights_path,
        metadata={"format": "kpop-weights-1"},
    )  # fmt: skip
    assert made(studio, run, ["diffusers"])[0] != other


def test_a_full_disk_is_told_before_anything_is_written(studio, run, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 1000, 1000))
    with pytest.raises(RunError, match=r"needs about .* GB on the disk, and 1e-06 GB are free"):
        made(studio, run)
    assert not [*studio.scratch().rglob("*.safetensors")]


def test_a_release_is_not_made_where_nothing_can_be_searched_for(studio, run):
    key = run.key_path("church")
    key.unlink()
    with pytest.raises(RunError, match="The key key-00-church.safetensors .* nothing can be searched for"):
        made(studio, run)
    shutil.rmtree(run.secret_dir)
    with pytest.raises(RunError, match="nothing can be searched for"):
        made(studio, run)
    assert not [*studio.scratch().rglob("*.safetensors")]
    with pytest.raises(InputError, match="A release is one of"):
        made(studio, run, [])
