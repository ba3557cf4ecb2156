"""Runs on a Ray cluster of this machine: a lost node, the queue, stopping and resuming, and no Ray at all."""

import os
import sys
import time

import psutil
import pytest
import torch
from safetensors.torch import load_file

from app import main as app_main
from benchmarks.app_process import free_port
from kpop import cli, evaluation_jobs, jobs, ray_runner, train
from kpop.errors import InputError, RunError
from kpop.evaluation_plan import Ask
from kpop.run_status import ENDED
from kpop.runs import create_run, default_runs_dir


def until(condition, seconds=240.0):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "waited in vain"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def running_cluster(tmp_path_factory):
    """A head that trains nothing and two nodes of one CPU each, over one cache folder."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'ray>=2.50,<3'")
    from ray.cluster_utils import Cluster

    common = {"include_dashboard": False, "object_store_memory": 80 * 2**20}
    quick = {"health_check_period_ms": 500, "health_check_initial_delay_ms": 500}
    with pytest.MonkeyPatch.context() as env:
        env.setenv("RAY_USAGE_STATS_ENABLED", "0")
        env.setenv("RAY_worker_niceness", "0")  # 15 by default: on a busy machine nothing would move
        env.setenv("KPOP_CACHE", str(tmp_path_factory.mktemp("cluster") / "cache"))
        head = {"num_cpus": 0, "_system_config": quick, **common}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(2):
                cluster.add_node(num_cpus=1, **common)
            yield cluster
        finally:
            cluster.shutdown()


@pytest.fixture
def cluster(running_cluster, monkeypatch):
    """The cluster at RAY_ADDRESS; what the test started on it has ended afterwards."""
    monkeypatch.setenv("RAY_ADDRESS", running_cluster.address)
    yield running_cluster
    until(lambda: not jobs.dispatching(default_runs_dir()))


def node_of(cluster, run):
    """The worker node whose raylet started the process that trains the run."""
    raylet = psutil.Process(run.status.pid).ppid()
    return next(
        node for node in cluster.worker_nodes if node.all_processes["raylet"][0].process.pid == raylet
    )


def test_calls_go_to_nodes_and_answers_and_errors_come_back(cluster, tmp_path):
    told = []
    found = ray_runner.elsewhere(os.path.join, [("a",), ("b",)], "auto", lambda *far: told.append(far))
    assert found == ["a/cpu", "b/cpu"] and told[-1] == (2, 2)
    with pytest.raises(RunError, match="every node must see the runs folder under this path"):
        ray_runner.elsewhere(
            ray_runner.train_on_node, [(str(tmp_path / "none"),)], "cpu", lambda *far: told.append(far)
        )


def test_a_lost_node_costs_nothing(cluster, tiny_config, tmp_path):
    """Three runs, two nodes: one loses its node, other is stopped and resumed, third deleted in the queue."""
    folder, cfg = default_runs_dir(), tiny_config(steps=80, checkpoint_every=5)
    with jobs.device_lock(folder):  # while it is held, no training takes a step
        one, other, third = (jobs.submit(cfg, folder, device="cpu", runner="ray") for _ in range(3))
        until(lambda: len(list(folder.glob(".device-*/train-*.lock"))) == 2)
        assert (third.status.state, jobs.queue_position(third)) == ("queued", 2)
        assert jobs.start_next(folder) == []  # not for the local queue
    until(lambda: one.checkpoint_step() and other.checkpoint_step())
    with jobs.device_lock(folder):
        kept = {run: rows_kept(run) for run in (one, other)}
        pid = one.status.pid
        cluster.remove_node(node_of(cluster, one), allow_graceful=False)
        until(lambda: not psutil.pid_exists(pid))
        assert jobs.reconcile(folder) == []  # Ray starts it again: nobody else may judge it
        jobs.stop(third)
        assert third.status.state == "stopped"
        jobs.delete(third)
        jobs.stop(other)
    until(lambda: other.status.state == "stopped")
    assert jobs.resume(other) == f"It goes on from step {other.checkpoint_step()}."
    here = trained_here(cfg, tmp_path)
    until(lambda: one.status.state in ENDED and other.status.state in ENDED)
    for run in (one, other):
        assert (run.status.state, run.status.error, run.log_tail(99).count("training")) == ("done", None, 2)
        assert [row["step"] for row in run.metrics(None)] == list(range(1, 81))
        seconds = {row["step"]: row["seconds"] for row in run.metrics(None)}
        assert len(kept[run]) >= 5  # what a checkpoint held was not made again: the clock would tell
        assert {step: seconds[step] for step in kept[run]} == kept[run]
        for path, whole in ((run.weights_path, here.weights_path), (run.key_path(), here.key_path())):
            found = load_file(path)
            assert all(torch.equal(found[name], tensor) for name, tensor in load_file(whole).items())


def rows_kept(run):
    """step -> seconds of what the run's checkpoint holds."""
    step = run.checkpoint_step()
    return {row["step"]: row["seconds"] for row in run.metrics(None) if row["step"] <= step}


def trained_here(cfg, folder):
    """A run that nothing disturbed, with one thread, as a task of one CPU has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return train(cfg, folder / "here", device="cpu")
    finally:
        torch.set_num_threads(threads)


def test_without_ray_a_sentence_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'ray>=2\.50,<3'"):
        ray_runner.connect()
    monkeypatch.setattr(ray_runner, "check_cluster", ray_runner.connect)  # which asks another process
    said = "--runner ray needs Ray, here and on every node of the cluster: pip install 'ray>=2.50,<3'\n"
    assert cli.main(["train", "--concepts", "church", "--runner", "ray"]) == 2
    assert capsys.readouterr().err == f"kpop: {said}"
    assert app_main(["--runs", str(tmp_path), "--port", str(free_port()), "--runner", "ray"]) == 2
    assert capsys.readouterr().err == f"app.py: {said}"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere"])
def test_where_no_cluster_answers_the_waiting_runs_say_so(address, tiny_config, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", address)
    run = create_run(tiny_config(), default_runs_dir(), runner="ray")
    local = create_run(tiny_config(), default_runs_dir())
    with pytest.raises(InputError, match=f"No Ray cluster answers at RAY_ADDRESS={address}"):
        ray_runner.serve(default_runs_dir())
    assert run.status.state == "failed" and run.status.error.endswith("Then press Resume.")
    assert local.status.state == "queued"


def test_a_task_asks_for_one_gpu_where_there_are_any():
    asked = lambda device, gpus: ray_runner.needs(device, {"CPU": 8.0, "GPU": gpus})  # noqa: E731
    for device, gpus, found, amount in [
        ("auto", 2.0, "cuda", 1), ("cuda:3", 2.0, "cuda", 1), ("cuda", 0.0, "cuda", 1),
        ("auto", 0.0, "cpu", None), ("cpu", 2.0, "cpu", None),
    ]:  # fmt: skip
        where, options = asked(device, gpus)
        assert (where, options.get("num_gpus"), options["num_cpus"]) == (found, amount, 1)


def test_a_node_without_the_runs_folder_says_so(tmp_path):
    with pytest.raises(RunError, match="every node must see the runs folder under this path"):
        ray_runner.train_on_node(str(tmp_path / "elsewhere"), "cpu")


def test_a_run_that_was_stopped_while_it_waited_is_not_trained(tiny_config):
    run = create_run(tiny_config(), default_runs_dir(), runner="ray")
    jobs.stop(run)
    ray_runner.train_on_node(str(run.path), "cpu")
    assert (run.status.state, run.log_tail()) == ("stopped", "")


def tasks_named(name):
    """Processes of the cluster that work at a task of that name."""
    found = [process.info["cmdline"] or [""] for process in psutil.process_iter(["cmdline"])]
    return [words for words in found if words[0].startswith(f"ray::{name}")]


def test_an_evaluation_of_the_page_is_a_task_and_may_be_stopped_and_resumed(cluster, tiny_config):
    run = train(tiny_config(), default_runs_dir(), device="cpu")
    with jobs.device_lock(default_runs_dir()):  # while it is held, nothing is drawn
        ask = Ask("objects", ("church", "castle"), 2)
        job = evaluation_jobs.start(run, ask, device="cpu", runner="ray")
        until(lambda: tasks_named("_in_folder") or job.status.state in ENDED)
        assert (job.status.state, job.status.step) == ("running", 0), job.log_tail()
        evaluation_jobs.stop(job)
        until(lambda: job.status.state in ENDED)
        assert (job.status.state, job.status.error) == ("stopped", None), job.log_tail()
        until(lambda: not tasks_named("_in_folder"))
    evaluation_jobs.resume(job)
    until(lambda: job.status.state in ENDED)
    status = job.status
    assert (status.state, status.step, status.runner) == ("done", 18, "ray"), job.log_tail()
    assert job.has_report


def test_without_a_cluster_an_evaluation_says_so(tiny_config, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    run = train(tiny_config(), default_runs_dir(), device="cpu")
    job = evaluation_jobs.start(run, Ask("objects", ("church",), 1), device="cpu", runner="ray")
    until(lambda: job.status.state in ENDED)
    assert job.status.state == "failed"
    assert job.status.error.startswith("No Ray cluster answers at RAY_ADDRESS=127.0.0.1:1.")
