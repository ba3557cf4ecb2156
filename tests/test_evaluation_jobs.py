"""Evaluations in the background: start, watch, stop, go on, die, and what is refused before one starts."""

import dataclasses
import json
import os
import shutil
import signal
import sys
import threading
import time
import zipfile

import pytest
from PIL import Image

import kpop
from kpop import evaluation_jobs, evaluation_plan, evaluation_worker, key_sealing
from kpop.errors import InputError, KpopError, RunError
from kpop.evaluation import detectors
from kpop.evaluation.lines import Line
from kpop.evaluation.standing import standing, together
from kpop.evaluation.styles import StyleJudge
from kpop.evaluation_jobs import EvaluationJob, list_evaluations
from kpop.evaluation_plan import Ask
from kpop.key_scan import find_key, fingerprints, secret_tensors
from kpop.limits import Limits
from kpop.run_status import ACTIVE, ENDED, change_status, host_name
from kpop.runs import EXAMPLE, Run, create_run, list_runs
from kpop.turns import evaluation_turn, shared_turn, training_gate

ONE = Ask("objects", ("church",), 1)
# A worker that judges a picture every moment, and stops when asked unless it is deaf.
WORKER = """
import signal, sys, time
from pathlib import Path
from kpop.run_status import change_status, process_fields
folder = Path(sys.argv[1])
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
change_status(folder, None, process_fields())
change_status(folder, ("starting",), {"state": "running"})
with open(folder / "predictions.csv", "a") as file:
    file.write("word,seed,variant,labels\\n")
print("working", flush=True)
for step in range(2000):
    with open(folder / "predictions.csv", "a") as file:
        file.write(f"church,{step},original,church|castle\\n")
    change_status(folder, None, {"step": step})
    time.sleep(0.02)
"""


@pytest.fixture(scope="module")
def trained(tiny_config, tmp_path_factory):
    """A run of the tiny model, which counts as the embedded one's kind."""
    config = tiny_config(steps=2, checkpoint_every=2)
    return kpop.train(config, runs_dir=tmp_path_factory.mktemp("trained"), device="cpu")


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it to evaluate; what a test leaves working is ended."""
    copy = kpop.Run(shutil.copytree(trained.path, tmp_path / "runs" / trained.id))
    yield copy
    for job in list_evaluations(copy):
        if job.status.state in ACTIVE and job.status.pid:
            os.killpg(job.status.pid, signal.SIGKILL)


def fake(monkeypatch, *more):
    monkeypatch.setattr(
        evaluation_jobs, "worker_command", lambda job: [sys.executable, "-c", WORKER, str(job.path), *more]
    )


def until(condition, seconds=60.0):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "waited in vain"
        time.sleep(0.05)


def test_it_runs_beside_us_and_leaves_a_report(run, tmp_path, tiny_pipe):
    ask = Ask("objects", ("church", "castle"), 2)
    job = evaluation_jobs.start(run, ask, device="cpu", owner="ann", pipe=tiny_pipe)
    assert [(line.name, line.role) for line in job.lines] == [
        ("church", "erased"), ("castle", "retained"), ("neutral text", "neutral"),
    ]  # fmt: skip
    assert standing(job.path, job.lines)[0].rates == {}
    with pytest.raises(RunError, match="is going on"):
        evaluation_jobs.start(run, ONE, device="cpu")
    until(lambda: job.status.state in ENDED, 400)
    status = job.status
    assert (status.state, status.step, status.steps, status.owner) == ("done", 18, 18, "ann"), job.log_tail()
    church = standing(job.path, job.lines)[0]
    assert list(church.rates) == ["original", "sanitized", "recovered"] and church.rates["original"].n == 2
    assert standing(job.path, job.lines)[2].rates["original"].n == 2
    assert os.getpgid(0) != status.pid and list_evaluations(run) == [EvaluationJob(job.path)]
    with zipfile.ZipFile(evaluation_jobs.pack(job, tmp_path / "report.zip")) as packed:
        names = [name.removeprefix(f"{job.name}/") for name in packed.namelist()]
        texts = b"".join(map(packed.read, packed.namelist()))
    assert names == [
        "report.md",
        "metrics.json",
        "predictions.csv",
        "settings.json",
        "detection.png",
        "detection.svg",
    ]
    assert str(tmp_path).encode() not in texts and str(run.config.model).encode() not in texts
    assert find_key(job.path, fingerprints(secret_tensors(run))) == []
    with pytest.raises(RunError, match="is finished"):
        evaluation_jobs.resume(job)


def test_one_waits_for_another_and_may_be_stopped_meanwhile(run):
    with evaluation_turn(run.path.parent):
        job = evaluation_jobs.start(run, ONE, device="cpu")
        until(lambda: job.status.state == "queued")
        evaluation_jobs.stop(job)
        until(lambda: job.status.state == "stopped")
    assert not (job.path / "predictions.csv").exists()


def test_stopped_it_goes_on_and_killed_it_says_so(run, monkeypatch):
    fake(monkeypatch)
    job = evaluation_jobs.start(run, ONE, device="cpu")
    until(lambda: job.status.step > 2)
    evaluation_jobs.stop(job)
    until(lambda: job.status.state == "stopped")
    judged = standing(job.path, job.lines)[0].rates["original"].n
    evaluation_jobs.resume(job)
    until(lambda: standing(job.path, job.lines)[0].rates["original"].n > judged)
    until(lambda: job.status.state == "running" and job.status.pid)
    os.kill(job.status.pid, signal.SIGKILL)
    until(lambda: job.status.state == "interrupted")
    assert "killed" in job.status.error and job.log_tail().endswith("working")
    (run.path / "weights.safetensors").write_bytes(b"others")
    (job.path / "settings.json").write_text('{"weights": "before"}')
    with pytest.raises(RunError, match="trained further"):
        evaluation_jobs.resume(job)


def test_limits_hold_where_one_starts_and_where_one_goes_on(run, monkeypatch):
    monkeypatch.setattr(evaluation_jobs, "_start", lambda job: None)
    monkeypatch.setattr(evaluation_jobs, "PATIENCE", 1e6)  # for them to count as about to be started
    second, third = (kpop.Run(shutil.copytree(run.path, run.path.with_name(f"run-{i}"))) for i in (2, 3))
    limits = Limits(evaluations=1, judging=2, judged=6)

    def start(its, owner, pictures=1):
        ask = Ask("objects", ("church",), pictures)
        return evaluation_jobs.start(its, ask, device="cpu", owner=owner, limits=limits)

    with pytest.raises(InputError, match="at most 6 pictures, not 12"):
        start(run, "ann", 2)
    anns, bobs = start(run, "ann"), start(second, "bob")
    with pytest.raises(RunError, match="1 evaluation a visitor may wait or work. Wait for yours"):
        start(third, "ann")
    with pytest.raises(RunError, match="at most 2 evaluations wait or work"):
        start(third, "a dropped cookie")
    assert list_evaluations(third) == [] and not any(third.path.glob("evaluations/.new-*"))
    change_status(anns.path, None, {"state": "stopped"})
    start(third, "ann")
    with pytest.raises(RunError, match="1 evaluation a visitor"):
        evaluation_jobs.resume(anns, limits=limits)
    evaluation_jobs.resume(anns)  # as the facilitator
    going_on = evaluation_jobs.going_on(run.path.parent)
    assert sorted(job.status.owner for job in going_on) == ["ann", "ann", "bob"]
    change_status(bobs.path, None, {"state": "failed"})
    with pytest.raises(InputError, match="at most 5 pictures, not 6"):
        evaluation_jobs.resume(bobs, limits=Limits(judged=5))


def test_one_of_an_earlier_version_is_planned_anew(run, monkeypatch):
    """Before the neutral text was drawn too, it had fewer lines and pictures."""
    monkeypatch.setattr(evaluation_jobs, "_start", lambda job: None)
    job = evaluation_jobs.start(run, ONE, device="cpu")
    kept = [line.to_dict() for line in job.lines][:1]
    (job.path / "request.json").write_text(json.dumps(job.request | {"lines": kept}))
    change_status(job.path, None, {"state": "stopped", "steps": 3})
    evaluation_jobs.resume(EvaluationJob(job.path))
    again = EvaluationJob(job.path)
    assert [line.name for line in again.lines] == ["church", "neutral text"]
    assert (again.status.state, again.status.steps) == ("starting", len(again.lines) * ONE.pictures * 3)


def test_seeds_are_as_asked(run, monkeypatch):
    fake(monkeypatch)
    chosen = Ask("objects", ("church",), seeds="3, 5-6,3")
    assert chosen.pictures == 3
    job = evaluation_jobs.start(run, chosen, device="cpu")
    assert job.status.steps == 18 and seeds_in(job.command_line()) == "3, 5-6,3"
    usual = dataclasses.asdict(Ask("objects", ("church",), 10)) | {"device": "cpu"}
    assert seeds_in(evaluation_plan.command_line(run, usual, job.path)) == "500-509"


def seeds_in(line):
    return line[line.index("--seeds") + 1]


def test_an_ended_one_is_deleted_and_the_run_stays(run, monkeypatch):
    fake(monkeypatch)
    job = evaluation_jobs.start(run, ONE, device="cpu")
    with pytest.raises(RunError, match="Stop it first, then delete it"):
        evaluation_jobs.delete(job)
    until(lambda: job.status.step > 2)
    evaluation_jobs.stop(job)
    until(lambda: job.status.state == "stopped")
    evaluation_jobs.delete(job)
    assert list_evaluations(run) == [] and list((run.path / "evaluations").iterdir()) == []
    assert run.status.state == "done" and run.has_result


def test_the_example_is_evaluated_beside_the_visitor_s_runs(tmp_path, monkeypatch):
    fake(monkeypatch)
    before = sorted(EXAMPLE.rglob("*"))
    job = evaluation_jobs.start(Run(EXAMPLE), ONE, device="cpu", runs_dir=tmp_path)
    try:
        assert job.run.is_example and job.path.is_relative_to(tmp_path.resolve())
        line = job.command_line()
        assert line[line.index("--runs") + 1] == str(tmp_path.resolve())
        assert list_evaluations(Run(EXAMPLE), tmp_path) == [job]
        assert list_evaluations(Run(EXAMPLE), tmp_path / "other") == []
        assert [one.id for one in list_runs(tmp_path)] == ["example-run"]
    finally:
        os.killpg(job.status.pid, signal.SIGKILL)
    assert sorted(EXAMPLE.rglob("*")) == before


def test_the_pace_of_the_newest_evaluation_is_remembered(run, tmp_path):
    beat = evaluation_worker.Beat(tmp_path, 100)
    beat.seen = [(0, 0.0), (10, 90.0), (60, 100.0)]
    assert beat.pace() == 0.2
    beat.seen = [(0, 0.0), (10, 90.0)]
    assert beat.pace() is None
    assert evaluation_jobs.measured_pace(run.path.parent, "emoji") is None
    for name, seconds, age in (("old", 9.0, 100), ("new", 0.5, 0), ("torn", None, -100)):
        path = run.path / "evaluations" / name / "pace.json"
        path.parent.mkdir(parents=True)
        told = {"seconds": seconds, "model": "emoji", "host": host_name()}
        path.write_text(json.dumps(told) if seconds else "{")
        os.utime(path, (time.time() - age,) * 2)
    assert evaluation_jobs.measured_pace(run.path.parent, "emoji") == 0.5
    assert evaluation_jobs.measured_pace(run.path.parent, "other") is None


def test_a_deaf_one_is_ended_by_the_second_wish(run, monkeypatch):
    monkeypatch.setattr(evaluation_jobs, "PATIENCE", -1.0)
    fake(monkeypatch, "deaf")
    job = evaluation_jobs.start(run, ONE, device="cpu")
    until(lambda: job.status.step > 2)
    evaluation_jobs.stop(job)
    assert job.status.state == "stopping"
    evaluation_jobs.stop(job)
    until(lambda: job.status.state == "stopped")


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: Ask("objects", (), 5), "at least one word"),
        (lambda: Ask("objects", ("church",), 0), "from 1 to 50"),
        (lambda: Ask("objects", ("church",), seeds="church"), "written as 0-3 or 1,5,9, not 'church'"),
        (lambda: Ask("objects", ("church",), seeds="9-5"), "write the smaller first"),
        (lambda: Ask("objects", ("church",), seeds="500-599"), "These are 100 seeds. Here at most 50"),
        (lambda: Ask("objects", ("church",), seeds=" "), "Write the seeds as 500-509 or 1,5,9"),
        (lambda: Ask("paintings"), "protocol is one of"),
        (lambda: Ask("objects", ("church", "zzgl"), 1), "cannot see 'zzgl'"),
        (lambda: Ask("style", (), 1), "erases a drawing style"),
        (lambda: Ask("csv"), "Give the list of prompts"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_and_leaves_nothing(run, ask, words):
    with pytest.raises(InputError, match=words):
        evaluation_jobs.start(run, ask(), device="cpu")
    assert list_evaluations(run) == [] and not any(run.path.glob("evaluations/.new-*"))


@pytest.mark.parametrize(
    ("text", "words"),
    [("a,b\n1,2\n", "need the columns prompt"), ("prompt,seed\na church,soon\n", "must be a whole number")],
)
def test_a_broken_prompt_list_is_refused_in_the_command_s_words(run, tmp_path, text, words):
    (tmp_path / "mine.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        evaluation_jobs.start(run, Ask("csv"), tmp_path / "mine.csv", device="cpu")
    assert list_evaluations(run) == []


@pytest.mark.parametrize(
    ("concepts", "retain", "kinds", "protocol", "lines", "pictures"),
    [
        (
            ("ink style",), ("flat style",), ("style", "csv"), "style",
            [("ink style", "erased"), ("flat style", "retained")], 4 * 2 * 2 * 3,
        ),
        (
            (("weapon", "knife"),), ("saw",), ("objects", "sensitive", "csv"), "sensitive",
            [
                ("weapons seen", "indirect"), ("weapons seen", "neutral"), ("text_score", "indirect"),
                ("text_score", "others"), ("base_distance", "indirect"), ("base_distance", "others"),
            ],
            None,
        ),
    ],
)  # fmt: skip
def test_a_protocol_fits_what_the_run_erases(
    tiny_config, tmp_path, concepts, retain, kinds, protocol, lines, pictures
):
    run = create_run(tiny_config(concepts=concepts, retain=retain), tmp_path)
    assert evaluation_plan.protocols_of(run) == kinds
    asked = {"protocol": protocol, "words": [], "pictures": 2, "device": "cpu"}
    found, total = evaluation_plan.plan_of(run, asked, tmp_path, None)
    assert [(line.name, line.role) for line in found] == lines
    assert total == 3 * 2 * evaluation_plan.prompt_count(run, protocol, ())
    assert pictures in (None, total)


def test_a_prompt_list_has_a_line_a_label(run, tmp_path):
    (tmp_path / "prompts.csv").write_text("prompt,seed,class\na castle,2,castle\na church,1,church\n")
    asked = {"protocol": "csv", "words": [], "pictures": 1, "device": "cpu"}
    lines, total = evaluation_plan.plan_of(run, asked, tmp_path, None)
    assert [(line.name, line.role) for line in lines] == [
        ("church", "erased"), ("castle", "retained"), ("neutral text", "neutral"),
    ]  # fmt: skip
    assert total == 3 * 3  # the neutral text has the one seed of what is erased


def test_a_style_is_judged_by_the_style_alone(monkeypatch):
    judge = StyleJudge(detectors.judge_folder())
    assert judge.labels[:2] == ["blob style", "flat style"] and judge.accuracy > 90
    monkeypatch.setattr(StyleJudge, "style_and_background", lambda self, images: (["ink"], ["blue"]))
    assert judge.top_k([Image.new("RGB", (64, 64))], 5) == [["ink style"]]
    assert judge.top_k([], 5) == []


def test_runs_that_are_not_ready_are_refused(run):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_sealing, "is_sealed", lambda run: True)
        with pytest.raises(RunError, match="is sealed"):
            evaluation_jobs.start(run, ONE)
    run.update_status(state="running")
    with pytest.raises(RunError, match="is running"):
        evaluation_jobs.start(run, ONE)
    run.update_status(state="stopped")
    run.weights_path.unlink()
    with pytest.raises(KpopError, match="learned nothing yet"):
        evaluation_jobs.start(run, ONE)


def test_the_lines_count_what_the_file_says(tmp_path):
    (tmp_path / "predictions.csv").write_text(
        "case,group,label,variant,found,text_score\n"
        "0,indirect,,original,knife:0.9|dog:0.05,20\n"
        "1,indirect,,original,dog:0.9|knife:0.6,30\n"
        "0,indirect,,sanitized,dog:0.9,\n"
        "1,indirect,,sanitized,knife:0.5|dog"
    )
    first = Line("knife", "erased", "group", "indirect", ("knife",))
    over = Line("weapons seen", "erased", "group", "indirect", ("knife", "bomb"), 0.5)
    score = Line("text_score", "all", "group", "indirect")
    found = standing(tmp_path, [first, over, score])
    assert [{v: (float(rate), rate.n) for v, rate in each.rates.items()} for each in found] == [
        {"original": (50.0, 2), "sanitized": (0.0, 1)},
        {"original": (100.0, 2), "sanitized": (0.0, 1)},
        {"original": (25.0, 2)},
    ]
    assert {v: rate.n for v, rate in together(found, tmp_path)["erased"].rates.items()} == {
        "original": 4, "sanitized": 2
    }  # fmt: skip
    assert Line.from_dict(over.to_dict()) == over


def test_long_work_leaves_a_training_as_much_time_as_it_took(tmp_path):
    steps, over = [], threading.Event()

    def train():
        with training_gate(tmp_path) as gate:
            while not over.is_set():
                gate()
                steps.append(time.monotonic())
                time.sleep(0.01)

    trainer = threading.Thread(target=train)
    trainer.start()
    until(lambda: len(steps) > 2)
    with shared_turn(tmp_path):
        before = len(steps)
        time.sleep(0.5)
        assert len(steps) <= before + 1  # it waits meanwhile
        before = len(steps)
    assert len(steps) >= before + 3
    over.set()
    trainer.join()
