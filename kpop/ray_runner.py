"""Trainings on a Ray cluster: a dispatcher, one a runs folder, hands each queued run to Ray as a task.

The task trains in the run folder, which every node sees under the same path, as a local worker does. When its
node is lost, Ray starts it again on another one, and it goes on from the checkpoint. Tasks end with their
dispatcher: jobs.py starts it detached (python -m kpop.ray_runner <runs folder>), and while it lives it alone
judges its runs.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from filelock import FileLock, Timeout

from . import jobs
from .detached import python_path
from .disk import brief
from .errors import InputError, KpopError, RunError
from .run_status import ENDED, host_name
from .run_trainer import training_lock
from .runs import Run, open_run
from .worker import in_words, train_run

if TYPE_CHECKING:
    from ray import ObjectRef

T = TypeVar("T")
RETRIES = 3  # further attempts after a node or a process was lost
EVERY = 1.0  # seconds between two looks at the queue
OTHER_TRAINER = 300.0  # seconds that a task waits for the process of a lost node to let go of the run


def check_cluster() -> None:
    """Raise InputError unless Ray is installed here and a cluster answers (tried in a process of its own)."""
    command = [sys.executable, "-m", "kpop.ray_runner"]
    env = os.environ | {"PYTHONPATH": python_path()}
    try:
        tried = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        raise InputError(_no_answer()) from None
    if tried.returncode == 2:
        raise InputError(tried.stderr.strip().rpartition("\n")[2])
    if tried.returncode:  # Ray ends the process where it gives up
        raise InputError(_no_answer())


def connect() -> None:
    """Join the cluster at RAY_ADDRESS, or else the one this machine belongs to. Raises InputError."""
    try:
        import ray
    except ImportError:
        raise InputError(
            "--runner ray needs Ray, here and on every node of the cluster: pip install 'ray>=2.50,<3'"
        ) from None
    where = os.environ.get("RAY_ADDRESS") or "auto"
    host, _, port = where.removeprefix("ray://").rpartition(":")
    try:
        if port.isdigit():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=10.0).close()
        ray.init(address=where, log_to_driver=False, ignore_reinit_error=True)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        raise InputError(f"{_no_answer()} ({brief(error)})") from error


def _no_answer() -> str:
    where = os.environ.get("RAY_ADDRESS")
    place = f"at RAY_ADDRESS={where}" if where else "on this machine, and RAY_ADDRESS is not set"
    return f"No Ray cluster answers {place}. Start one with `ray start --head`, as docs/deploy.md says."


def serve(runs_dir: Path) -> None:
    """Hand queued runs over until none waits or trains; returns at once where another dispatcher does it.

    Raises InputError when there is no cluster; the waiting runs are failed with the same words.
    """
    while jobs.waiting(runs_dir, "ray"):  # asked again without the lock: one may have come at the last moment
        try:
            with FileLock(runs_dir / jobs.DISPATCHER_LOCK, timeout=1.0):
                try:
                    connect()
                except InputError as error:
                    for run, _ in jobs.waiting(runs_dir, "ray"):
                        run.transition(("queued",), state="failed", error=f"{error} Then press Resume.")
                    raise
                _dispatch(runs_dir)
        except Timeout:
            return


def _dispatch(runs_dir: Path) -> None:
    import ray

    task = ray.remote(max_retries=RETRIES, max_calls=1)(train_on_node)
    tasks: dict[ObjectRef, Run] = {}
    while True:
        for run, status in jobs.waiting(runs_dir, "ray"):
            if run not in tasks.values():
                device, options = needs(status.device, ray.cluster_resources())
                tasks[task.options(name=run.id, **options).remote(str(run.path), device)] = run
        if not tasks:
            return
        over, _ = ray.wait(list(tasks), timeout=EVERY)
        for ref in over:
            _settle(tasks.pop(ref), ref)
        for ref, run in tasks.items():
            _withdraw(run, ref)


def elsewhere(
    function: Callable[..., T], calls: Sequence[tuple], device: str, tell: Callable[[int, int], None]
) -> list[T]:
    """function(*call, device) for every call, each a task of the cluster; what they return, in order.

    function: of a module; it works in the same folder as here, under the same path, and is called again
    when its node is lost, so it must go on from what it finds. tell: called with how many of how many are
    done.
    Raises InputError where no cluster answers, what a task raised as a KpopError, and else RunError.
    """
    connect()
    import ray

    device, options = needs(device, ray.cluster_resources())
    task = ray.remote(max_retries=RETRIES, max_calls=1)(_in_folder).options(**options)
    left = refs = [task.remote(os.getcwd(), function, call, device) for call in calls]
    try:
        while left:
            over, left = ray.wait(left, timeout=EVERY)
            ray.get(over)  # raises what one of them raised
            tell(len(refs) - len(left), len(refs))
        return ray.get(refs)
    except ray.exceptions.RayError as error:
        why = _reason(error)
        raise (why if isinstance(why, KpopError) else RunError(_in_words(why))) from None
    finally:
        for ref in left:
            ray.cancel(ref)
        ray.shutdown()


def _in_folder(folder: str, function: Callable[..., T], call: tuple, device: str) -> T:
    try:
        os.chdir(folder)
    except OSError:
        raise RunError(f"{host_name()} has no {folder}: every node must see it under this path.") from None
    return function(*call, device)


def _reason(error: Exception) -> BaseException:
    """What a task raised, or where it raised nothing itself what Ray says."""
    return getattr(error, "cause", None) or error


def _in_words(why: BaseException) -> str:
    lost = type(why).__module__.startswith("ray.")
    return f"Ray gave it up ({type(why).__name__})." if lost else in_words(why)


def needs(device: str, cluster: dict[str, float]) -> tuple[str, dict]:
    """The device a task trains on, and what it asks Ray for: one GPU, or one CPU.

    device: of the run; "auto" is a GPU if the cluster (resource -> amount) has any. Ray chooses which one.
    """
    if device.startswith("cuda") or (device == "auto" and cluster.get("GPU", 0) >= 1):
        device, amounts = "cuda", {"num_gpus": 1, "num_cpus": 1}
    else:
        device, amounts = "cpu" if device == "auto" else device, {"num_cpus": 1}
    return device, amounts | {"runtime_env": {"env_vars": {"PYTHONPATH": python_path()}}}


def train_on_node(path: str, device: str) -> None:
    """The task: train the run in that folder, from its checkpoint if there is one, and leave a final state.

    Raises RunError when this node does not see the folder.
    """
    if not Path(path).is_dir():
        raise RunError(f"{host_name()} has no {path}: every node must see the runs folder under this path.")
    run = open_run(Path(path))
    with (
        training_lock(run, OTHER_TRAINER),
        open(run.path / "log.txt", "a", buffering=1, encoding="utf-8") as log,
        redirect_stdout(log),
        redirect_stderr(log),
    ):
        if run.status.state in ENDED:
            return  # stopped while it waited
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} training {run.id} on {device} of {host_name()}")
        try:
            train_run(run, device, runner="ray")
        except Exception as error:  # trace.txt says more
            print(in_words(error))
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {run.status.state}")


def _settle(run: Run, ref: ObjectRef) -> None:
    """Give the run a final state where its task could not."""
    import ray

    try:
        ray.get(ref)
        return
    except ray.exceptions.RayError as error:
        why = _in_words(_reason(error))
    kept = jobs.kept_in_words(run)
    ended = f"{jobs.DEAF} {kept}"
    try:
        if not run.transition(("stopping",), state="stopped", error=ended, eta_s=None):
            run.transition(("queued", *jobs.HELD), state="failed", error=f"{why} {kept}", eta_s=None)
    except RunError as problem:
        print(problem, file=sys.stderr)  # a deleted run: the others go on


def _withdraw(run: Run, ref: ObjectRef) -> None:
    """Take back a task whose run left the queue, and end one that was asked to stop and did not."""
    import ray

    status = run.status
    waited = time.time() - status.stop_asked if status.stop_asked else 0.0
    never_began = status.state in ENDED and status.pid is None
    if never_began or (status.state == "stopping" and waited > jobs.KILL_AFTER):
        ray.cancel(ref, force=not never_began)


def main(argv: list[str] | None = None) -> int:
    """Dispatch the runs of the folder given, or without one try the cluster; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m kpop.ray_runner", description=__doc__)
    parser.add_argument("runs", nargs="?", type=Path, help="runs folder")
    args = parser.parse_args(argv)
    try:
        if args.runs is None:
            connect()
        else:
            serve(args.runs)
    except KpopError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    from kpop import ray_runner  # by its name: Ray would send functions of __main__ as copies

    sys.exit(ray_runner.main())
