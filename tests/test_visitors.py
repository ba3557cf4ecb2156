"""Visitors of a shared app: whose runs are whose, what others can do to them, how much one may ask for."""

import hashlib
import shutil

import httpx
import pytest
from gradio_client import Client
from shared_app import CONCEPT, ROOM_LOGIN, by_element, copied, listed, pressed, run_events

from kpop import RunError, cli, evaluation_jobs
from kpop.exposure import Exposure
from kpop.limits import SPACE
from kpop.runs import create_run
from kpop.ui.studio import Studio


def fingerprint(run):
    """Hash of a run folder's files, but for what looking at it writes."""
    total = hashlib.sha256()
    for path in sorted(run.path.rglob("*")):
        if path.is_file() and path.suffix != ".lock":
            total.update(f"{path.relative_to(run.path)}".encode() + path.read_bytes())
    return total.hexdigest()


def test_everybody_is_somebody_and_stays_so(address, ann, bob):
    assert ann.visitor != bob.visitor and ann.visitor.startswith("visitor-")
    first = httpx.get(address + "/")
    line = first.headers["set-cookie"]
    assert "HttpOnly" in line and "SameSite=Lax" in line and "Path=/" in line
    again = httpx.get(address + "/", cookies=dict(first.cookies))
    assert "set-cookie" not in again.headers
    forged = httpx.get(address + "/", cookies={name: value[:-1] for name, value in first.cookies.items()})
    assert forged.headers["set-cookie"] != line
    client = Client(address, auth=(ROOM_LOGIN.user, ROOM_LOGIN.password), verbose=False)
    assert any(name.startswith("kpop-visitor") for name in client.cookies)
    assert client.predict(api_name="/list_runs")[-1]["example"]


def test_runs_are_seen_by_who_started_them_and_by_the_facilitator(ann, bob, boss, anns, trained):
    assert listed(ann) == {anns.id} and listed(bob) == set()
    assert listed(boss) >= {anns.id, trained.id}
    worked, told = ann.call("run_status", run=anns.id)
    assert worked and told[0]["state"] == "done"


@pytest.mark.parametrize("name", ["run_status", "stop_run", "resume_run", "compare", "attribute"])
def test_anothers_run_is_not_there_for_the_documented_endpoints(bob, anns, name):
    fields = {"prompt": "a church"} if name in ("compare", "attribute") else {}
    before = fingerprint(anns)
    worked, said = bob.call(name, run=anns.id, **fields)
    assert not worked and "There is no run" in str(said) and "of yours" in str(said)
    assert fingerprint(anns) == before


def test_anothers_run_and_key_cannot_be_started_from(bob, anns):
    worked, said = bob.call("start_run", concepts=["church"], base_run=anns.id)
    assert not worked and "There is no run" in str(said)


def test_anothers_run_is_not_there_for_any_event_of_the_page(ann, bob, anns, hosts):
    before, told = (fingerprint(anns), fingerprint(hosts)), 0
    for number, place, kinds in run_events(bob):
        for run in (anns, hosts):
            data = [props.get("value") for props in kinds]
            data[place] = [run.id] if kinds[place].get("multiselect") else run.id
            bob.heard.clear()
            worked, said = bob.event(number, data)
            assert CONCEPT.encode() not in b"".join(bob.heard), (number, place, said)
            told += "There is no run" in str(said)
    assert told > 40
    assert (fingerprint(anns), fingerprint(hosts)) == before
    seen = 0
    for number, place, kinds in run_events(ann):
        if place == 0 and not ann.config["dependencies"][number]["queue"]:  # those only look
            ann.heard.clear()
            ann.event(number, [anns.id, *(props.get("value") for props in kinds[1:])], "looking")
            seen += CONCEPT.encode() in b"".join(ann.heard)
    assert seen > 3


def test_a_public_run_is_looked_at_by_all_and_changed_by_none(bob, boss, trained, ann):
    run = copied(trained, "20260101-000000-show-0c33", ann.visitor)
    assert listed(bob) == set()
    assert cli.main(["runs", "publish", str(run.path)]) == 0
    assert listed(bob) == {run.id}
    for person, owns in ((ann, True), (bob, False), (boss, True)):  # the same training makes the same key
        assert ("seed" in person.call("run_status", run=run.id)[1][0]["config"]) == owns
        assert all("seed" in one["config"] for one in person.call("list_runs")[1][0] if one["example"])
    assert cli.main(["runs", "publish", str(run.path), "--undo"]) == 0
    assert listed(bob) == set()
    assert cli.main(["runs", "publish", str(run.path)]) == 0
    worked, said = bob.call("compare", run=run.id, prompt="a church", seeds="1")
    assert worked and said[1]["run"] == run.id
    before = fingerprint(run)
    for button in ("stop-run", "resume-run", "delete-yes", "seal-key", "open-key", "release-make"):
        fields = {"passphrase": "a long passphrase", "passphrase-again": "a long passphrase"}
        worked, said = pressed(bob, button, run, **fields, **{"release-forms": ["delta"]})
        assert not worked and "Somebody else started this run" in str(said), button
    worked, said = bob.call("start_run", concepts=["church"], base_run=run.id)
    assert not worked and "Somebody else started this run" in str(said)
    assert fingerprint(run) == before
    worked, said = pressed(boss, "delete-yes", run)
    assert worked and not run.path.exists()


def test_no_answer_names_a_folder_of_the_machine(bob, trained):
    """Nor shows a traceback: of an error the sentence, of the log what is no traceback."""
    error = f"The disk of {trained.path.parent}/20260101-000000-full-0e55/checkpoint is full."
    run = copied(trained, "20260101-000000-full-0e55", bob.visitor, state="failed", error=error)
    trace = 'Traceback (most recent call last):\n  File "/srv/x.py", line 3\nOSError: no\n'
    (run.path / "log.txt").write_text(f"training\n{trace}{error}\n")
    bob.heard.clear()
    worked, told = bob.call("run_status", run=run.id)
    assert worked and told[0]["error"] == f"The disk of {run.id}/checkpoint is full."
    bob.call("list_runs")
    for number, place, kinds in run_events(bob):
        if place == 0 and not bob.config["dependencies"][number]["queue"]:  # those only look
            bob.event(number, [run.id, *(props.get("value") for props in kinds[1:])], "looking")
    heard = b"".join(bob.heard).decode()
    assert "Failed to forget" in heard and "is full" in heard
    assert str(trained.path.parent) not in heard and "Traceback" not in heard and "x.py" not in heard
    shutil.rmtree(run.path)


def test_another_runs_key_is_lent_to_nobody(bob, anns, trained):
    mine = copied(trained, "20260101-000000-mine-0d44", bob.visitor)
    number, inputs = by_element(bob, "draw")
    asked = {"run-picker": mine.id, "prompt": "a church", "seeds": "1", "guidance": "", "sampling": ""}
    worked, _ = bob.event(number, [{**asked, "key": "own", "rival": ""}.get(one) for one in inputs])
    assert worked
    worked, said = bob.event(number, [{**asked, "key": "own", "rival": anns.id}.get(one) for one in inputs])
    assert not worked and "There is no run" in str(said)
    for name in ("compare", "attribute"):
        worked, said = bob.call(name, run=mine.id, prompt="a church", key=f"run:{anns.id}")
        assert not worked and "only a key of your own" in str(said)
    shutil.rmtree(mine.path)


def test_limits_of_a_visitor_are_told_in_a_sentence(bob, boss, shared_folder, trained):
    for fields, words in (
        ({"steps": 5000}, "at most 2000 steps, not 5000"),
        ({"batch_size": 100}, "at most 16 rows"),
        ({"model": "emoji"}, "its own model"),
        ({"steps": 200, "rollout_steps": 1000}, "at most 50 rollout_steps, not 1000"),
        ({"steps": 200, "sample_every": 1}, "at most 40 samples, not 200. Raise sample_every"),
        ({"steps": 2000, "checkpoint_every": 1}, "at most 200 checkpoints, not 2000"),
        ({"steps": 2000, "latents": "fresh"}, "at most 1000 steps with latents fresh, not 2000"),
        ({"trainable": "full"}, "may not train the full U-Net"),
        ({"retain": [[f"word {i}" for i in range(70)]]}, "at most 60 words, synonyms"),
    ):
        worked, said = bob.call("start_run", concepts=["church"], **fields)
        assert not worked and words in str(said)
    waiting = [
        copied(trained, f"20260101-000000-wait-0e5{i}", bob.visitor, state="running", runner="inline")
        for i in range(2)
    ]
    worked, said = bob.call("start_run", concepts=["church"], steps=5)
    assert not worked and "2 runs a visitor may wait or train" in str(said)
    for run in waiting:
        shutil.rmtree(run.path)
    worked, said = bob.call("compare", run="example-run", prompt="a church " * 100)
    assert not worked and "at most 400 characters" in str(said)


def test_a_dropped_cookie_wins_nothing_in_a_space(tmp_path, shared_model, tiny_config):
    studio = Studio(tmp_path, shared_model, "cpu", Exposure(shared=True, space=True, limits=SPACE))
    for i in range(8):
        create_run(tiny_config(), tmp_path, f"visitor {i}", "running")
    with pytest.raises(RunError, match="at most 8 runs wait or train"):
        studio.submit(tiny_config(), "one more")


def test_an_evaluation_of_a_visitor_is_limited_before_it_starts(bob, trained):
    mine = copied(trained, "20260101-000000-judge-0e77", bob.visitor)
    asked = {"protocol": "objects", "evaluate-words": ["church"], "evaluate-seeds": "500-509"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation_jobs, "plan_of", lambda *_: ([], 2001))
        worked, said = pressed(bob, "evaluate-start", mine, **asked)
    assert not worked and "at most 2000 pictures, not 2001" in str(said)
    assert evaluation_jobs.list_evaluations(mine) == []
    shutil.rmtree(mine.path)


def test_the_address_of_anothers_run_says_so(bob, anns):
    number = next(
        i for i, one in enumerate(bob.config["dependencies"]) if one["backend_fn"] and not one["inputs"]
        and not one["outputs"] and one["targets"] and one["targets"][0][1] == "load"
    )  # fmt: skip
    body = {"fn_index": number, "data": [], "session_hash": "asked"}
    bob.http.post("/gradio_api/queue/join", json=body, params={"run": anns.id})
    said = bob.get("/gradio_api/queue/data", params={"session_hash": "asked"}).text
    assert f"There is no run '{anns.id}' of yours" in said
