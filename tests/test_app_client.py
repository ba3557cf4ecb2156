"""The real app over HTTP: a whole run, bad input in words, files that must stay private, flags."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

import httpx
import numpy as np
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image
from shared_app import rows_of_three

from benchmarks.app_process import app_command, free_port, running_app
from kpop import open_run
from kpop.evaluation_jobs import list_evaluations
from kpop.hidden_prompt import HiddenPrompt
from kpop.key_scan import find_key, fingerprints, secret_tensors
from kpop.run_status import ACTIVE

SMALL = {
    "retain": ["castle"],
    "steps": 20,
    "batch_size": 1,
    "rollout_steps": 4,
    "sample_every": 10,
    "checkpoint_every": 10,
    "seed": 0,
    "templates": ["{}", "a {}"],
}
WORDS = ("a", "church", "castle", "house", "dog", "photo", "of", "red")
RUN_LIMIT = 420  # seconds


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("app")


@pytest.fixture(scope="module")
def address(folder, tiny_folder):
    """The app on a small random model that knows the words of WORDS."""
    model = shutil.copytree(tiny_folder, folder / "model")
    (model / "words.json").write_text(json.dumps({word: 1 for word in WORDS}))
    with running_app(folder, "--model", str(model)) as address:
        yield address


@pytest.fixture(scope="module")
def client(address, folder):
    return Client(address, verbose=False, download_files=str(folder / "downloads"))


@pytest.fixture(scope="module")
def finished(client):
    """Id of a 20-step run that is done."""
    run = client.predict(concepts=["church"], **SMALL, api_name="/start_run")["run"]
    wait_for(client, run, "done")
    return run


def wait_for(client, run, *states):
    end = time.monotonic() + RUN_LIMIT
    while time.monotonic() < end:
        status = client.predict(run=run, api_name="/run_status")
        if status["state"] in states:
            return status
        assert status["state"] not in ("failed", "interrupted"), status["error"]
        time.sleep(0.5)
    raise AssertionError(f"still {status['state']} at step {status['step']} after {RUN_LIMIT} s")


def test_a_look_at_the_names_of_runs_chooses_none(client, address, finished):
    """A late answer with a run in it would take back what was chosen since."""
    config = client.config
    picker = next(one["id"] for one in config["components"] if one["props"].get("elem_id") == "run-picker")
    look = next(
        each["id"]
        for each in config["dependencies"]
        if each["outputs"] == [picker] and "change" in [event for _, event in each["targets"]]
    )
    asked = {"data": [], "fn_index": look, "session_hash": "names"}
    update = httpx.post(f"{address}gradio_api/run/predict", json=asked).json()["data"][0]
    assert finished in [value for _, value in update["choices"]]
    assert "value" not in update


def test_a_run_is_trained_in_the_background_and_listed(client, finished):
    status = client.predict(run=finished, api_name="/run_status")
    assert (status["step"], status["steps"], status["concepts"]) == (20, 20, ["church"])
    assert status["config"]["retain"] == ["castle"]
    assert {"step", "l_erase", "l_recover", "l_transfer"} <= set(status["last"])
    assert status["samples"] == [0, 10, 20]
    assert client.predict(api_name="/list_runs")[0]["run"] == finished


def test_compare_gives_three_variants_a_seed_as_png_with_their_story(client, finished):
    pictures, facts = client.predict(run=finished, prompt="a church", seeds="3, 5", api_name="/compare")
    assert [picture["caption"] for picture in pictures] == [
        "original, seed 3",
        "original, seed 5",
        "sanitized, seed 3",
        "sanitized, seed 5",
        "recovered, seed 3",
        "recovered, seed 5",
    ]
    assert facts["seeds"] == [3, 5] and set(facts["judge"]) == {"original", "sanitized", "recovered"}
    with Image.open(pictures[3]["image"]) as picture:
        assert picture.format == "PNG" and min(picture.size) >= 256
        story = json.loads(picture.info["kpop"])
    assert (story["prompt"], story["seed"], story["variant"]) == ("a church", 5, "sanitized")


def test_attribute_gives_every_head_of_every_variant(client, finished):
    facts, figure, arrays = client.predict(
        run=finished, prompt="a church", seed=1, layer="middle", api_name="/attribute"
    )
    assert (facts["word"], facts["words"]) == ("church", ["church"])
    assert [(row["variant"], row["head"]) for row in facts["heads"][:2]] == [("original", 0), ("original", 1)]
    assert {row["variant"] for row in facts["heads"]} == {"original", "sanitized", "recovered"}
    assert all(layer.startswith("mid") for layer in facts["layers"])
    assert "church" in facts["sentence"]
    with Image.open(figure) as picture:
        assert picture.format == "PNG"
    with np.load(arrays) as saved:
        assert saved["recovered/heads/church"].dtype == np.float32
        assert float(saved["recovered/hidden_prompt_mass"].max()) > 0
        assert float(saved["sanitized/hidden_prompt_mass"].max()) == 0


def test_a_run_is_stopped_and_kept_then_goes_on(client, finished):
    run = client.predict(concepts=["church"], **(SMALL | {"steps": 4000}), api_name="/start_run")["run"]
    wait_for(client, run, "running")
    client.predict(run=run, api_name="/stop_run")
    stopped = wait_for(client, run, "stopped")
    assert 0 < stopped["step"] < 4000
    assert client.predict(run=run, api_name="/resume_run")["state"] in ("queued", "starting", "running")
    while (status := client.predict(run=run, api_name="/run_status"))["step"] <= stopped["step"]:
        assert status["state"] in ("queued", "starting", "running"), status
        time.sleep(0.5)
    client.predict(run=run, api_name="/stop_run")
    wait_for(client, run, "stopped")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"concepts": []}, "at least one concept"),
        ({"concepts": [""]}, "concept"),
        ({"concepts": ["church " * 1000]}, "concepts"),
        ({"concepts": ["church"], "retain": ["church"]}, "both to be erased and to be retained"),
        ({"concepts": ["church"], "steps": 0}, "steps"),
        ({"concepts": ["church"], "steps": 1_000_000}, "steps"),
        ({"concepts": ["church"], "model": "/etc"}, "Unknown model"),
        ({"concepts": ["church"], "preset": "nothing-such"}, "no preset"),
        ({"concepts": ["church"], "base_run": "../../etc"}, "There is no run"),
        ({"concepts": 7}, "concepts"),
    ],
)
def test_bad_settings_are_answered_in_words(client, fields, words):
    before = len(client.predict(api_name="/list_runs"))
    with pytest.raises(AppError, match=words):
        client.predict(**fields, api_name="/start_run")
    assert len(client.predict(api_name="/list_runs")) == before


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("/run_status", {"run": "../../etc/passwd"}, "There is no run"),
        ("/stop_run", {"run": "nobody"}, "There is no run"),
        ("/compare", {"prompt": "a church " * 100}, "tokens"),
        ("/compare", {"prompt": " "}, "Write a prompt"),
        ("/compare", {"prompt": "a church", "seeds": "one"}, "Write seeds as"),
        ("/compare", {"prompt": "a church", "seeds": "0-99"}, "At most 8 seeds"),
        ("/compare", {"prompt": "a church", "key": "/etc/passwd"}, "Unknown key"),
        ("/attribute", {"prompt": "a church", "word": "dog"}, "not in the prompt"),
        ("/attribute", {"prompt": "a church", "layer": "top"}, "No layer"),
        ("/attribute", {"prompt": "a church", "timestep_band": "9"}, "band"),
    ],
)
def test_bad_questions_are_answered_in_words(client, finished, name, fields, words):
    with pytest.raises(AppError, match=words):
        client.predict(**({"run": finished} | fields), api_name=name)


def test_a_word_the_model_never_saw_is_answered_with_three_it_knows(client):
    with pytest.raises(AppError, match=r"does not know the word 'chruch'.*: 'church', '.+', '.+'"):
        client.predict(concepts=["chruch"], api_name="/start_run")


def test_keys_and_run_folders_are_not_served(address, folder, finished):
    secret = next((folder / "runs" / finished / "secret").glob("*.safetensors"))
    for path in (secret, folder / "runs" / finished / "config.json", "/etc/passwd"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{address}gradio_api/file={path}")
        assert refused.value.code in (403, 404)


def test_the_key_is_in_no_answer_no_log_and_no_served_file(client, folder, finished):
    run = open_run(folder / "runs" / finished)
    answers = [client.predict(run=finished, api_name="/run_status"), client.predict(api_name="/list_runs")]
    answers += client.predict(run=finished, prompt="a church", seeds="1", api_name="/compare")
    answers += client.predict(run=finished, prompt="a church", seed=1, api_name="/attribute")
    (folder / "answers.txt").write_text(json.dumps(answers))
    assert len(list((folder / "downloads").rglob("*.png"))) > 0
    assert len(list(folder.glob("app-*.txt"))) == 1  # what the app printed
    found = find_key(folder, fingerprints(secret_tensors(run)))
    assert found and {path.parent for path in found} == {run.secret_dir}
    p = HiddenPrompt.load(run.key_path("church")).key
    shown = rows_of_three(json.dumps(p.tolist()))
    assert len(shown) > 300 and shown & rows_of_three(str(p))  # as a print would show it
    kinds = (".json", ".jsonl", ".txt", ".html")
    texts = "".join(p.read_text(errors="replace") for p in folder.rglob("*") if p.suffix in kinds)
    assert "church" in texts and not shown & rows_of_three(texts)


def press(client, address, button, data):
    """What the page's own server answers to a press of a button: private to the page, not an API."""
    config = client.config
    (part,) = [one["id"] for one in config["components"] if one["props"].get("elem_id") == button]
    (event,) = [one["id"] for one in config["dependencies"] if [part, "click"] in one["targets"]]
    asked = {"data": data, "fn_index": event, "session_hash": "press", "trigger_id": part}
    httpx.post(f"{address}gradio_api/queue/join", json=asked).raise_for_status()
    with httpx.stream("GET", f"{address}gradio_api/queue/data?session_hash=press", timeout=120) as lines:
        for line in lines.iter_lines():
            told = json.loads(line.removeprefix("data: ") or "{}")
            if told.get("msg") == "process_completed":
                return told
    raise AssertionError("no answer")


def test_the_page_evaluates_in_the_background_and_serves_no_file_of_it(client, address, folder, finished):
    run = open_run(folder / "runs" / finished)
    told = press(client, address, "evaluate-start", [finished, "objects", ["zzgl"], None, "500"])
    assert not told["success"] and "cannot see 'zzgl'" in told["output"]["error"]
    assert list_evaluations(run) == []
    told = press(client, address, "evaluate-start", [finished, "objects", ["church", "castle"], None, "500"])
    assert told["success"], told
    (job,) = list_evaluations(run)
    assert (job.request["words"], job.status.owner) == (["church", "castle"], "local")
    end = time.monotonic() + RUN_LIMIT
    while job.status.state in ACTIVE and time.monotonic() < end:
        time.sleep(0.5)
    assert (job.status.state, job.has_report) == ("done", True), job.log_tail()
    for name in ("report.md", "predictions.csv", "log.txt"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{address}gradio_api/file={job.path / name}")
        assert refused.value.code in (403, 404)


def test_only_the_documented_names_are_offered(client):
    names = set(client.view_api(return_format="dict", print_info=False)["named_endpoints"])
    assert names == {
        "/start_run",
        "/run_status",
        "/stop_run",
        "/resume_run",
        "/list_runs",
        "/compare",
        "/attribute",
    }


def refused(*flags, env=None):
    """The one line with which the app refuses to start."""
    done = subprocess.run(
        app_command(*flags), capture_output=True, text=True, timeout=120, env=os.environ | (env or {})
    )
    lines = done.stderr.strip().splitlines()
    assert (done.returncode, len(lines), done.stdout) == (2, 1, ""), done
    return lines[0]


def test_a_port_in_use_is_named(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"Port {port} is in use" in refused("--port", str(port), "--runs", str(tmp_path))


def test_flags_that_cannot_be_used_end_with_one_sentence(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    assert "cannot be written" in refused("--runs", str(tmp_path / "file"), "--port", str(free_port()))
    assert "colon between" in refused("--auth", "anna:")
    assert "--port must be" in refused("--port", "70000")
    assert "invalid int value" in refused("--port", "many")
    assert "unrecognized arguments" in refused("--prot", "1")
    assert "model_index.json" in refused(
        "--model", str(tmp_path), "--runs", str(tmp_path / "runs"), "--port", str(free_port())
    )
