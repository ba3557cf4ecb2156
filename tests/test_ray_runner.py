"""Runs on a Ray cluster of this machine: a node lost in mid-run, the cluster's queue, stopping, no Ray at all."""

import os
import sys
import time

import psutil
import pytest
import torch
from safetensors.torch import load_file

from app import main as app_main
from kpop import cli, jobs, ray_runner
from kpop.errors import InputError
from kpop.run_status import ENDED
from kpop.runs import create_run, default_runs_dir


def until(condition, seconds=120.0):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def cluster(tmp_path_factory, monkeypatch):
    """A head that trains nothing and two nodes of one CPU each; RAY_ADDRESS is set."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'ray>=2.50,<3'")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 by default: on a busy machine nothing would move
    common = {"include_dashboard": False, "object_store_memory": 80 * 2**20}
    quick = {"health_check_period_ms": 500, "health_check_initial_delay_ms": 500}
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": quick, **common}
    )
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, **common)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
    finally:
        until(lambda: not jobs.dispatching(default_runs_dir()))
        cluster.shutdown()


def node_of(cluster, run):
    """The worker node whose raylet started the process that trains the run."""
    raylet = psutil.Process(run.status.pid).ppid()
    return next(
        node for node in cluster.worker_nodes if node.all_processes["raylet"][0].process.pid == raylet
    )


def test_a_lost_node_costs_nothing_and_a_stopped_run_leaves_the_queue(cluster, tiny_config, capsys):
    folder = default_runs_dir()
    cfg = tiny_config(steps=60, checkpoint_every=5)
    one, other, third = (jobs.submit(cfg, folder, device="cpu", runner="ray") for _ in range(3))
    until(lambda: one.status.step > 10 and other.status.step > 1)
    assert (third.status.state, jobs.queue_position(third)) == ("queued", 2)
    assert jobs.start_next(folder) == []  # not for the local queue

    cluster.remove_node(node_of(cluster, one), allow_graceful=False)
    pid, step = one.status.pid, one.checkpoint_step()
    until(lambda: not psutil.pid_exists(pid))
    assert step >= 10 and jobs.reconcile(folder) == []  # Ray starts it again: nobody else may judge it
    jobs.stop(third)
    assert third.status.state == "stopped"
    until(lambda: one.status.state in ENDED and other.status.state in ENDED)
    assert (one.status.state, other.status.state, third.status.step) == ("done", "done", 0)
    assert one.log_tail(99).count("training") == 2 and other.log_tail(99).count("training") == 1
    assert [row["step"] for row in one.metrics(None)] == list(range(1, 61))
    whole, mended = load_file(other.weights_path), load_file(one.weights_path)
    assert all(torch.equal(mended[name], tensor) for name, tensor in whole.items())
