"""What docs/security.md promises, tried on the app as a workshop shares it."""

import base64
import contextlib
import io
import json
import re
import shutil
import signal
import zipfile
from itertools import pairwise
from pathlib import Path

import httpx
import psutil
import pytest
from payloads import unfolded
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file
from shared_app import ROOM_LOGIN, Person, by_element, listed, pressed, run_events

from benchmarks.app_process import running_app
from kpop.detached import signal_session
from kpop.evaluation_jobs import list_evaluations
from kpop.exposure import Exposure, Login
from kpop.hidden_prompt import HiddenPrompt
from kpop.key_scan import find_key, fingerprints, secret_tensors
from kpop.limits import SPACE
from kpop.run_status import ACTIVE
from kpop.runs import list_runs


def test_frames_sniffing_and_referrers_are_closed(ann):
    headers = ann.get("/").headers
    assert headers["content-security-policy"] == "frame-ancestors 'self'"
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "same-origin")


def test_requests_too_large_are_not_read(ann):
    assert ann.http.post("/gradio_api/queue/join", content=b"[" * 4_000_001).status_code == 413
    assert ann.http.post("/gradio_api/queue/join", content=iter([b"{}"])).status_code == 411
    answer = ann.http.post("/gradio_api/upload", files={"files": ("a.png", b"0" * 1_100_000)})
    assert answer.status_code == 413


TRAVERSALS = [
    "../",
    "../../etc/passwd",
    "/etc/passwd",
    "..%2f..%2fetc",
    "example-run/../x",
    ".",
    "..",
    "a\0b",
    "C:\\x",
]


@pytest.mark.parametrize("name", ["run_status", "stop_run", "resume_run", "compare", "attribute"])
def test_ids_are_no_paths(ann, name):
    fields = {"prompt": "a church"} if name in ("compare", "attribute") else {}
    for run in TRAVERSALS:
        worked, said = ann.call(name, run=run, **fields)
        assert not worked and "There is no run" in str(said), run
    for run in (None, 7, ["a"], {"path": "/etc/passwd"}):
        worked, said = ann.call(name, run=run, **fields)
        assert not worked, run


@pytest.mark.parametrize("field", ["preset", "base_run", "key"])
def test_other_names_are_no_paths_either(ann, anns, field):
    said_so = ("no preset", "no run", "Unknown key", "must be one line")
    for text in TRAVERSALS:
        if field == "key":
            worked, said = ann.call("compare", run=anns.id, prompt="a church", key=text)
        else:
            worked, said = ann.call("start_run", concepts=["church"], **{field: text})
        assert not worked and any(w in str(said) for w in said_so), said


MALFORMED = [
    ("call/v2/compare", {"run": "x"}, 400, "/compare needs prompt."),
    ("call/v2/compare", {"run": "x", "prompt": []}, 400, "prompt must be text."),
    ("call/v2/run_status", {"run": "x", "": 1}, 400, "/run_status has no field ''; its fields are run."),
    ("call/v2/nothing", {}, 404, "There is no function 'nothing'."),
    ("call/compare", {"data": ["x"]}, 400, "data has 1 values, and this function takes 4."),
    ("run/run_status", {"data": "x"}, 400, "data must be a list"),
    ("run/run_status", {"data": ["no such run"]}, 400, "no such run"),
    ("queue/join", {"data": [], "fn_index": 1}, 400, "session_hash must be text."),
    ("queue/join", {"data": [], "fn_index": 100_000, "session_hash": "x"}, 404, "no function '100000'"),
    ("queue/join", b"[" * 100_000, 400, "not JSON"),
    ("run/predict", b'{"data": ["\xff"]}', 400, "not JSON"),
    ("component_server", {}, 404, "nothing at this address"),
]


@pytest.mark.parametrize("path, body, status, told", MALFORMED)
def test_a_malformed_request_is_told_what_is_wrong_with_it(ann, path, body, status, told):
    content = body if isinstance(body, bytes) else json.dumps(body)
    headers = {"content-type": "application/json"}
    answer = ann.http.post(f"/gradio_api/{path}", content=content, headers=headers)
    assert answer.status_code == status and told in answer.text


def number_of(ann, name):
    """fn_index of a function of the page."""
    every = ann.http.get("/config").json()["dependencies"]
    return next(one["id"] for one in every if one["api_name"] == name)


def test_events_and_files_that_no_browser_sends_are_no_fault_of_ours(ann):
    post = lambda values: ann.http.post("/gradio_api/run/predict", json=values)  # noqa: E731
    typing = number_of(ann, "typing")
    for told in ({}, {"key": 1}, [], "x"):
        asked = {"fn_index": typing, "data": [""], "session_hash": "x", "event_data": told}
        assert post(asked).status_code == 200, told
    kind = number_of(ann, "kind")
    for file in ({"a": 1}, {"path": "/etc/passwd"}):
        answer = post({"fn_index": kind, "data": ["", "csv", [], file, ""]})
        assert answer.status_code == 400 and "is not in the form that the page sends." in answer.text, file


def test_a_malformed_form_is_told_what_is_wrong_with_it(ann):
    part = b'--x\r\nContent-Disposition: form-data; name="files"%s\r\n\r\na\r\n--x--'
    named, bare = part % b'; filename="a"', part % b""
    for body, kind, told in (
        (named, "multipart/form-data; boundary=" + "y" * 300, "cannot be read"),
        (named[:60], "multipart/form-data; boundary=x", "must hold files"),
        (bare, "multipart/form-data; boundary=x", "must hold files"),
        (named, "text/plain", "as multipart/form-data"),
    ):
        answer = ann.http.post("/gradio_api/upload", content=body, headers={"content-type": kind})
        assert 400 <= answer.status_code < 500 and told in answer.text


def test_a_fault_of_ours_stays_a_500_and_is_logged(ann, served, monkeypatch, caplog):
    monkeypatch.setattr("kpop.ui.http_api.told", lambda *_: 1 / 0)
    answer = ann.http.post("/gradio_api/run/list_runs", json={"data": []})
    assert answer.status_code == 500 and "Something broke on our side" in answer.text
    assert "ZeroDivisionError" in caplog.text and "ZeroDivisionError" not in answer.text


def test_a_file_field_takes_uploads_only(ann, anns, trained, shared_folder):
    number, inputs = by_element(ann, "restore")
    secret = next(anns.secret_dir.glob("*.safetensors"))
    for path in (secret, anns.path / "config.json", "/etc/passwd", shared_folder / "runs" / ".visitors"):
        file = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
        worked, said = ann.event(number, [{"restore": file}.get(one, anns.id) for one in inputs])
        assert not worked, path
        assert ann.get(f"/gradio_api/file={path}").status_code in (403, 404)
    put = ann.http.post("/gradio_api/upload", files={"files": ("../../../evil.png", b"no picture")})
    assert Path(put.json()[0]).is_relative_to(shared_folder / "gradio") and ".." not in put.json()[0]
    assert not list(shared_folder.parent.glob("evil.png"))


def written_out(numbers, text):
    """Whether two neighbours of the numbers stand close together: one alone may be digits of a duration."""
    shown = [f"{number:.7f}"[:-2] for number in numbers if abs(number) > 0.01]
    assert len(shown) > 100
    for one, other in pairwise(shown):
        at = text.find(one)
        while at >= 0:
            if other in text[at : at + 60]:
                return True
            at = text.find(one, at + 1)
    return False


def test_the_key_is_in_no_answer_no_log_and_no_served_file(ann, boss, anns, shared_folder, tmp_path, capfd):
    """Everything people hear while they use a run, what the app prints, and all it leaves on the disk."""
    for person in (ann, boss):
        person.heard.clear()
        person.call("run_status", run=anns.id)
        person.call("list_runs")
        for key in ("own", "none", "random"):
            assert person.call("compare", run=anns.id, prompt="a church", seeds="1", key=key)[0]
        worked, told = person.call("attribute", run=anns.id, prompt="a church", seed=1)
        assert worked
        for number, place, kinds in run_events(person):
            if not person.config["dependencies"][number]["queue"]:
                data = [anns.id if i == place else props.get("value") for i, props in enumerate(kinds)]
                person.event(number, data)
    prints = fingerprints(secret_tensors(anns))
    drawn = {"prompt": "a church", "seeds": "1", "key": "own", "guidance": "", "sampling": ""}
    grid = {**drawn, "xy-across-values": "4", "xy-down-values": "1"}
    words = {"passphrase": "a long passphrase", "passphrase-again": "a long passphrase"}
    for button, fields in (
        ("draw", drawn), ("xy-draw", grid), ("watch", {"attribution-prompt": "a church"}),
        ("seal-key", words), ("open-key", words), ("clone-run", {}),
    ):  # fmt: skip
        worked, heard_then = pressed(ann, button, anns, **fields)
        assert worked, (button, heard_then)
    for button in ("stop-run", "resume-run", "evaluate-start", "evaluation-stop", "train-default"):
        pressed(ann, button, anns, **{"evaluate-words": ["church"], "evaluate-seeds": "500"})
    ended(shared_folder)
    worked, said = pressed(ann, "release-make", anns, **{"release-forms": ["delta"]})
    assert worked, said
    files = [one["url"] for one in _files([told, said])]
    assert len(files) > 2
    fetched = [ann.get(url) for url in files]
    assert all(one.status_code == 200 for one in fetched)
    out, err = capfd.readouterr()
    heard = shared_folder / "heard"
    heard.mkdir()
    answers = [*ann.heard, *boss.heard, *(one.content for one in fetched), out.encode(), err.encode()]
    pictures = [path.read_bytes() for path in (shared_folder / "gradio").rglob("*.png")]
    logs = [path.read_bytes() for path in shared_folder.rglob("log.txt")]
    assert pictures and logs
    for number, data in enumerate(answers):
        (heard / f"{number}").write_bytes(data)
        if zipfile.is_zipfile(io.BytesIO(data)):
            zipfile.ZipFile(io.BytesIO(data)).extractall(heard / f"zip-{number}")
    inside = [piece for data in {*answers, *pictures, *logs} for piece in unfolded(data)]
    assert len(inside) > 100  # pictures of the page are base64
    (heard / "unfolded").write_bytes(bytes(16).join(inside))
    assert list(heard.rglob("*.safetensors"))
    assert len(list((shared_folder / "tmp").glob("kpop-studio-*/*"))) > 1
    found = find_key(shared_folder, prints)
    assert found and {path.parent.name for path in found} == {"secret"}
    assert find_key(tmp_path, prints) == []  # the cache
    p = HiddenPrompt.load(anns.key_path()).key.flatten()[:300]
    text = b"".join(answers).decode(errors="replace")
    assert written_out(p.tolist(), repr(p.tolist())) and not written_out(p.tolist(), text)


def ended(folder):
    """Ends what the buttons have started, and its processes."""
    for run in list_runs(folder / "runs"):
        if not run.is_example:
            for job in list_evaluations(run):
                signal_session(job.status, signal.SIGKILL)
            if run.status.state in ACTIVE:
                signal_session(run.status, signal.SIGKILL)
                run.update_status(state="stopped")


@pytest.mark.parametrize("fold", ["base64", "after letters", "hex", "text of a picture"])
def test_a_key_folded_into_an_answer_would_be_found(fold, trained, tmp_path):
    key = load_file(trained.key_path())["p"][0, 3].numpy().tobytes()
    text = base64.b64encode(key)
    if fold == "text of a picture":
        info, buffer = PngInfo(), io.BytesIO()
        info.add_itxt("kpop", text.decode(), zip=True)
        Image.new("RGB", (1, 1)).save(buffer, "PNG", pnginfo=info)
        data = b'{"src": "data:image/png;base64,' + base64.b64encode(buffer.getvalue()) + b'"}'
    else:
        kinds = {"base64": text, "after letters": b"k" + text, "hex": key.hex().encode()}
        data = b'{"key": "%s"}' % kinds[fold]
    (tmp_path / "folded").write_bytes(data)
    prints = fingerprints(secret_tensors(trained))
    assert find_key(tmp_path, prints) == []
    (tmp_path / "unfolded").write_bytes(b"".join(unfolded(data)))
    assert [path.name for path in find_key(tmp_path, prints)] == ["unfolded"]


def _files(value):
    """FileData in an answer, at any depth."""
    if isinstance(value, dict):
        if "url" in value and "path" in value:
            yield value
        value = list(value.values())
    for one in value if isinstance(value, list) else []:
        yield from _files(one)


CHANGING = ["train-default", "train-paper", "stop-run", "resume-run", "clone-run", "delete-run", "delete-yes"]
CHANGING += ["release-make", "seal-key", "open-key"]


def test_a_gallery_has_no_buttons_that_change_runs(open_app, trained, tmp_path, address):
    shutil.copytree(trained.path, tmp_path / "runs" / trained.id)
    person = Person(open_app(Exposure(shared=True, read_only=True, space=True, limits=SPACE)))
    there = {one["props"].get("elem_id") for one in person.config["components"]}
    assert not there & set(CHANGING) and {"draw", "watch", "run-picker"} <= there
    names = {one["api_name"] for one in person.config["dependencies"] if one["api_visibility"] == "public"}
    assert names == {"run_status", "list_runs", "compare", "attribute"}
    assert listed(person) == {trained.id}  # what lies in the folder is what is shown
    assert person.call("compare", run=trained.id, prompt="a church", seeds="1")[0]
    worked, said = person.call("compare", run=trained.id, prompt="a church", seeds="0-7")
    assert not worked and "at most 12 pictures a click, not 24" in str(said)
    line = httpx.get(person.address).headers["set-cookie"]
    assert all(word in line for word in ("SameSite=None", "Secure", "Partitioned", "HttpOnly"))
    assert "content-security-policy" not in httpx.get(person.address).headers  # a Space is shown in a frame
    full = {one["props"].get("elem_id") for one in Person(address, ROOM_LOGIN).config["components"]}
    assert set(CHANGING) <= full


def test_an_app_without_a_login_answers_to_names_of_this_machine_only(open_app):
    address = open_app(Exposure())
    port = address.rpartition(":")[2]
    assert httpx.get(address, headers={"Host": f"localhost:{port}"}).status_code == 200
    refused = httpx.get(address, headers={"Host": f"evil.example:{port}"})
    assert refused.status_code == 403 and "127.0.0.1 and localhost only" in refused.json()["detail"]
    assert "set-cookie" not in httpx.get(address).headers


def test_the_app_opens_on_a_machine_too_busy_to_answer_within_three_seconds(open_app, monkeypatch):
    def too_late(*_, **__):
        raise httpx.ReadTimeout("timed out")

    monkeypatch.setattr(httpx, "head", too_late)  # gradio's look at its own page
    assert httpx.get(open_app(Exposure())).status_code == 200


def test_passwords_are_on_no_process_list_and_only_the_app_listens(tmp_path, shared_model, trained):
    passwords = ("ROOM-passw0rd", "BOSS-passw0rd")
    env = {"KPOP_AUTH": f"room:{passwords[0]}", "KPOP_FACILITATOR": f"boss:{passwords[1]}"}
    with running_app(tmp_path, "--model", shared_model, **env) as address:
        person = Person(address.rstrip("/"), Login("room", passwords[0]))
        worked, told = person.call("start_run", concepts=["church"], retain=["castle"], steps=2000)
        assert worked, told
        port = int(address.rstrip("/").rpartition(":")[2])
        app = next(one for one in psutil.Process().children(recursive=True) if f"{port}" in one.cmdline())
        family = [app, *app.children(recursive=True)]
        assert len(family) > 1  # the training
        assert {c.laddr.port for one in family for c in one.net_connections() if c.status == "LISTEN"} == {
            port
        }
        for one in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                assert not any(word in " ".join(one.cmdline()) for word in passwords)
        for one in family[1:]:
            assert not set(one.environ()) & set(env)
        log = "".join(path.read_text() for path in tmp_path.rglob("*.txt"))
        assert "KPOP Studio is ready" in log and not any(word in log for word in passwords)


def test_the_tests_named_in_the_documentation_are_there():
    here = Path(__file__).parent
    text = (here.parent / "docs" / "security.md").read_text("utf-8")
    named = set(re.findall(r"`(test_\w+)`", text))
    tests = {
        name for path in here.glob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert len(named) > 15 and named <= tests
    assert {path for path in re.findall(r"\btest_\w+\.py", text) if not (here / path).is_file()} == set()
