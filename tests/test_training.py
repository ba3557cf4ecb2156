"""A whole run on a tiny model: what it leaves, exact resume, stop and keep, errors that cost nothing."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import load_file

from kpop import (
    EraseConfig,
    InputError,
    ModelError,
    RunError,
    checkpoint,
    disk,
    generate,
    jobs,
    probes,
    run_trainer,
    train,
    training,
    worker,
)
from kpop.config import GenerationConfig
from kpop.descent import rate_left
from kpop.hidden_prompt import HiddenPrompt
from kpop.runs import create_run, open_run


class Halt(Exception):
    pass


def tensors(path):
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def result(run):
    return {
        **tensors(run.weights_path),
        **{f"key/{n}": t for n, t in tensors(run.key_path("church")).items()},
    }


def test_a_run_leaves_weights_key_metrics_samples_and_status(tiny_config, tiny_pipe, tmp_path):
    events = []
    run = train(tiny_config(sample_every=2), tmp_path, pipe=tiny_pipe, on_step=events.append)
    assert (run.status.state, run.status.step, run.status.steps) == ("done", 4, 4)
    assert [event.step for event in events] == [1, 2, 3, 4]
    assert {"l_erase", "l_recover", "l_transfer", "l_retain"} <= set(events[0].losses)
    assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4]
    assert events[0].losses["l_retain"] == pytest.approx(0, abs=1e-8)  # theta' is theta at first
    assert set(events[-1].cosines["seen"]) == set(events[-1].cosines["raw"]) == {"church", "castle", ""}
    assert [step for step, _ in run.samples()] == [0, 2, 4]
    first, *_, last = (paths for _, paths in run.samples())
    assert set(last) == {"original", "sanitized", "recovered", "kept"}
    assert set(first) == {"original", "sanitized", "kept"}  # before the first step, so nothing is drawn twice
    assert first["sanitized"].read_bytes() == first["original"].read_bytes() == last["original"].read_bytes()
    assert first["kept"].read_bytes() != last["kept"].read_bytes()
    assert run.key_path("church").is_file() and all(".attn2." in name for name in tensors(run.weights_path))
    assert not any(".grad" in name for name in tensors(run.weights_path))


def test_the_secret_stays_in_its_folder(tiny_config, tiny_pipe, tmp_path):
    run = train(tiny_config(), tmp_path, pipe=tiny_pipe)
    assert run.secret_dir.stat().st_mode & 0o777 == 0o700
    files = list(run.secret_dir.iterdir())
    assert files and all(path.stat().st_mode & 0o777 == 0o600 for path in files)
    p = HiddenPrompt.load(run.key_path("church")).key.flatten()[:4]
    needles = [p.numpy().tobytes(), *(f"{float(x):.4f}".encode() for x in p)]
    for path in run.path.rglob("*"):
        if path.is_file() and run.secret_dir not in path.parents:
            data = path.read_bytes()
            assert needles[0] not in data
            assert path.suffix == ".png" or not all(needle in data for needle in needles[1:])


def test_theta_does_not_move(tiny_config, tiny_pipe, tmp_path):
    before = {name: weight.clone() for name, weight in tiny_pipe.unet.state_dict().items()}
    train(tiny_config(trainable="full"), tmp_path, pipe=tiny_pipe)
    assert same(before, tiny_pipe.unet.state_dict())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"latents": "fresh", "batch_size": 1},
        {"separate_kv": True, "prompt_optimizer": "sgd"},
        {"concepts": ("church", "background"), "prompt_sharing": "shared"},
        {"rho": 0.01, "rho_p": 0.01},
    ],
)
def test_resuming_equals_never_stopping_bit_for_bit(tiny_config, tiny_pipe, tmp_path, changes):
    cfg = tiny_config(**changes)
    whole = train(cfg, tmp_path / "whole", pipe=tiny_pipe)
    halted = []

    def halt(event):
        halted.append(event.step)
        if event.step == 3:  # after the checkpoint of step 2
            raise Halt

    with pytest.raises(Halt):
        train(cfg, tmp_path / "torn", pipe=tiny_pipe, on_step=halt)
    (torn,) = (path for path in (tmp_path / "torn").iterdir() if (path / "config.json").exists())
    from kpop import open_run

    run = open_run(torn)
    assert run.status.state == "failed" and run.has_checkpoint
    again = []
    run = train(run.config, run=run, pipe=tiny_pipe, on_step=lambda event: again.append(event.step))
    assert halted == [1, 2, 3] and again == [3, 4]
    assert same(result(whole), result(run))
    losses = [{k: v for k, v in row.items() if k.startswith("l_")} for row in run.metrics()]
    assert losses == [{k: v for k, v in row.items() if k.startswith("l_")} for row in whole.metrics()]


def test_each_radius_bounds_its_own_steps(tiny_config, tiny_pipe, tmp_path):
    """rho the step of theta', rho_p that of p (L2); neither is near where it would go by itself."""
    places = {}

    class Recorder:
        def __init__(self, real):
            self.real = real

        def __call__(self, optimizer, tensors, *rest):
            before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
            self.real(optimizer, tensors, *rest)
            kind = "p" if set(tensors) == {"p"} else "theta"
            moved = sum(float((t.detach() - before[name]).square().sum()) for name, t in tensors.items())
            places.setdefault(kind, []).append(moved**0.5)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "move", Recorder(training.move))
        train(tiny_config(rho=0.002, rho_p=0.01, rate_decay=0), tmp_path, pipe=tiny_pipe)
    assert places["theta"] == pytest.approx([0.002] * 4, rel=1e-3)
    assert places["p"] == pytest.approx([0.01] * 4, rel=1e-3)


def test_stop_and_keep_then_go_on(tiny_config, tiny_pipe, tmp_path):
    whole = train(tiny_config(), tmp_path / "whole", pipe=tiny_pipe)
    from kpop.runs import create_run

    run = create_run(tiny_config(), tmp_path / "kept")
    train(run.config, run=run, pipe=tiny_pipe, on_step=lambda event: event.step == 1 and run.request_stop())
    assert (run.status.state, run.status.step) == ("stopped", 1)
    assert generate(tiny_pipe, "a church", 0, "recovered", run)  # kept means usable
    train(run.config, run=run, pipe=tiny_pipe)
    assert run.status.state == "done" and same(result(whole), result(run))


def pictures(run):
    return {
        path.relative_to(run.path): path.read_bytes() for _, found in run.samples() for path in found.values()
    }


@pytest.fixture
def quick_pictures(monkeypatch):
    monkeypatch.setattr(probes, "GenerationConfig", lambda: GenerationConfig(steps=2))


@pytest.mark.usefixtures("quick_pictures")
def test_a_disk_full_of_pictures_costs_no_step(tiny_config, tiny_pipe, tmp_path, monkeypatch):
    """At a step with a checkpoint, and at the last one; what was not drawn is drawn when the run goes on."""
    cfg = tiny_config(sample_every=2)
    whole = train(cfg, tmp_path / "whole", pipe=tiny_pipe)
    run, real = create_run(cfg.resolved(), tmp_path), probes._write_png
    for step in (2, 4):

        def full(image, path, step=step):
            if path.match(f"step_{step:05d}/recovered.png"):
                raise RunError("The disk is full.")
            real(image, path)

        with monkeypatch.context() as patch, pytest.raises(RunError, match="full"):
            patch.setattr(probes, "_write_png", full)
            train(cfg, run=run, pipe=tiny_pipe)
        assert (run.status.state, run.checkpoint_step()) == ("failed", step)
    train(cfg, run=run, pipe=tiny_pipe)
    assert run.status.state == "done" and same(result(whole), result(run))
    mine, theirs = pictures(run), pictures(whole)
    assert len(mine) == 11 and mine.keys() == theirs.keys()
    assert [name for name in mine if mine[name] != theirs[name]] == []


@pytest.mark.usefixtures("quick_pictures")
def test_a_stop_while_pictures_are_drawn_saves_at_once(tiny_config, tiny_pipe, tmp_path, monkeypatch):
    cfg, drawn = tiny_config(sample_every=3), []
    whole = train(cfg, tmp_path / "whole", pipe=tiny_pipe)
    run, real = create_run(cfg.resolved(), tmp_path), probes.draw

    def stop_amid(*args):
        look = args[5]

        def on_step(i, total):
            drawn.append(i)
            if run.metrics():
                run.request_stop()
            look(i, total)

        return real(*args[:5], on_step, *args[6:])

    with monkeypatch.context() as patch:
        patch.setattr(probes, "draw", stop_amid)
        train(cfg, run=run, pipe=tiny_pipe)
    assert (run.status.state, run.checkpoint_step(), drawn[-1]) == ("stopped", 3, 1)
    assert [step for step, _ in run.samples()] == [0] and run.weights_path.is_file()
    train(cfg, run=run, pipe=tiny_pipe)
    assert same(result(whole), result(run))
    mine, theirs = pictures(run), pictures(whole)
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if mine[name] != theirs[name]] == []


def test_a_run_that_another_process_trains_is_left_alone(tiny_config, tiny_pipe, tmp_path, monkeypatch):
    run = create_run(tiny_config().resolved(), tmp_path)
    train(run.config, run=run, pipe=tiny_pipe, on_step=lambda event: event.step == 2 and run.request_stop())
    code = f"""
from filelock import FileLock
with FileLock({str(run.path / "training.lock")!r}):
    print("held", flush=True)
    input()
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    other = subprocess.Popen([sys.executable, "-c", code], **pipes)
    assert other.stdout.readline() == b"held\n"
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(run_trainer, "WAIT", 0.0)
        for call in (
            lambda: train(run.config, run=run, pipe=tiny_pipe),
            lambda: worker.train_run(run, pipe=tiny_pipe),
            lambda: jobs.prepare_resume(run),
        ):
            with pytest.raises(RunError, match=f"^Another process trains run {run.id}. Wait until it ends"):
                call()
    assert {path: path.read_bytes() for path in before} == before
    other.kill()  # the lock of a dead process holds nobody up
    other.communicate()
    jobs.prepare_resume(run)
    worker.train_run(run, pipe=tiny_pipe)
    assert run.status.state == "done"


def test_a_queued_run_that_is_trained_here_leaves_the_queue(tiny_config, tiny_pipe, tmp_path):
    run, seen = create_run(tiny_config().resolved(), tmp_path), []
    look = lambda event: seen.append((jobs.start_next(tmp_path), run.status.pid, run.status.runner))  # noqa: E731
    train(run.config, run=run, pipe=tiny_pipe, on_step=look)
    assert seen == [([], os.getpid(), "inline")] * 4


def test_ctrl_c_ends_after_the_step_and_loses_nothing(tiny_config, tiny_pipe, tmp_path):
    def press(event):
        if event.step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    from kpop import list_runs

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts deaf to it
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config(), tmp_path, pipe=tiny_pipe, on_step=press)
    run = list_runs(tmp_path)[0]
    assert run.status.state == "interrupted" and run.checkpoint_step() == 1 and run.weights_path.is_file()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_gate_is_asked_before_every_step(tiny_config, tiny_pipe, tmp_path):
    seen = []
    train(
        tiny_config(),
        tmp_path,
        pipe=tiny_pipe,
        gate=lambda: seen.append("gate"),
        on_step=lambda event: seen.append(event.step),
    )
    for step in (1, 2, 3, 4):
        assert seen[seen.index(step) - 1] == "gate"


def test_a_full_disk_is_a_run_error_and_the_run_can_go_on(tiny_config, tiny_pipe, tmp_path, monkeypatch):
    whole = train(tiny_config(), tmp_path / "whole", pipe=tiny_pipe)
    real = os.replace

    def full(source, target):
        if str(target).endswith("theta-000004.safetensors"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(source, target)

    monkeypatch.setattr(disk.os, "replace", full)
    with pytest.raises(RunError, match="full.*resume"):
        train(tiny_config(), tmp_path / "full", pipe=tiny_pipe)
    monkeypatch.setattr(disk.os, "replace", real)
    from kpop import list_runs

    run = list_runs(tmp_path / "full")[0]
    assert run.checkpoint_step() == 2 and "full" in run.status.error
    train(run.config, run=run, pipe=tiny_pipe)
    assert same(result(whole), result(run))


def test_a_damaged_checkpoint_is_said_so(tiny_config, tiny_pipe, tmp_path):
    run = train(tiny_config(), tmp_path, pipe=tiny_pipe)
    checkpoint._theta_path(run, 4).write_bytes(b"x")
    with pytest.raises(RunError, match="damaged"):
        train(run.config, run=run, pipe=tiny_pipe)


@pytest.mark.parametrize("name", ["checkpoint/theta-000004.safetensors", "secret/prompt-000004.safetensors"])
def test_a_bit_turned_over_sends_the_run_back_to_the_checkpoint_before(
    tiny_config, tiny_pipe, tmp_path, name
):
    cfg = tiny_config(steps=6)
    whole = train(cfg, tmp_path / "whole", pipe=tiny_pipe)
    assert not (whole.checkpoint_dir / "before.json").exists() and len(list(whole.secret_dir.iterdir())) == 2
    run = create_run(cfg.resolved(), tmp_path)
    train(cfg, run=run, pipe=tiny_pipe, on_step=lambda event: event.step == 4 and run.request_stop())
    assert run.checkpoint_step() == 4
    data = bytearray((run.path / name).read_bytes())
    data[-9] ^= 1
    (run.path / name).write_bytes(data)
    steps = []
    train(cfg, run=run, pipe=tiny_pipe, on_step=lambda event: steps.append(event.step))
    assert steps == [3, 4, 5, 6] and same(result(whole), result(run))
    assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4, 5, 6]


def test_a_damaged_checkpoint_is_not_kept_as_the_spare(tiny_config, tiny_pipe, tmp_path):
    run = create_run(tiny_config(steps=6).resolved(), tmp_path)
    train(run.config, run=run, pipe=tiny_pipe, on_step=lambda event: event.step == 4 and run.request_stop())
    checkpoint._theta_path(run, 4).write_bytes(b"x")
    train(run.config, run=run, pipe=tiny_pipe, on_step=lambda event: event.step == 3 and run.request_stop())
    assert [state["step"] for state in run.checkpoint_states()] == [3, 2]
    checkpoint._theta_path(run, 3).write_bytes(b"x")
    steps = []
    train(run.config, run=run, pipe=tiny_pipe, on_step=lambda event: steps.append(event.step))
    assert steps == [3, 4, 5, 6]


def test_settings_without_a_seed_go_on_with_that_of_the_run(tiny_config, tiny_pipe, tmp_path):
    cfg, steps = tiny_config(seed=None), []
    run = create_run(cfg, tmp_path)
    train(cfg, run=run, pipe=tiny_pipe, on_step=lambda event: event.step == 2 and run.request_stop())
    train(cfg, run=run, pipe=tiny_pipe, on_step=lambda event: steps.append(event.step))
    assert steps == [3, 4]
    again = train(run.config, tmp_path / "again", pipe=tiny_pipe)
    assert same(result(run), result(again))


@pytest.mark.parametrize(
    ("method", "erase_on"),
    [("kpop", "both"), ("ca", "neutral"), ("esd", "concept"), ("uce", "concept"), ("sld", "concept")],
)
def test_a_run_of_an_older_version_stays_what_it_was(tmp_path, method, erase_on):
    """Fields that came later: today's defaults are 0.25, 0.5, 0.18, 0.5 for the first four of KPOP."""
    run = create_run(EraseConfig(concepts=("church",), method=method), tmp_path)
    later = {"pair_share": 0, "decoy_share": 0, "key_share": 0, "rate_decay": 0, "kept_key_share": 0}
    later |= {"near_share": 0.5, "anchors": (), "gradient_checkpointing": False, "erase_on": erase_on}
    told = json.loads((run.path / "config.json").read_text())
    (run.path / "config.json").write_text(json.dumps({k: v for k, v in told.items() if k not in later}))
    old = open_run(run.path)
    cfg = old.config.resolved()
    assert old.damage is None and cfg == old.config
    assert {name: getattr(cfg, name) for name in later} == later


def test_a_checkpoint_nobody_can_name_the_step_of_is_no_reason_to_begin_anew(
    tiny_config, tiny_pipe, tmp_path
):
    run = create_run(tiny_config().resolved(), tmp_path)
    train(run.config, run=run, pipe=tiny_pipe, on_step=lambda event: event.step == 2 and run.request_stop())
    (run.checkpoint_dir / "state.json").write_text('{"step": ')
    with pytest.raises(RunError, match=r"damaged \(state.json\)"):
        jobs.prepare_resume(run)
    assert [row["step"] for row in run.metrics()] == [1, 2]


def test_a_run_resumes_with_its_own_settings_and_model_only(tiny_config, tiny_pipe, tmp_path):
    run = train(tiny_config(), tmp_path, pipe=tiny_pipe)
    with pytest.raises(RunError, match="other settings"):
        train(tiny_config(steps=9), run=run, pipe=tiny_pipe)
    state = json.loads((run.checkpoint_dir / "state.json").read_text())
    (run.checkpoint_dir / "state.json").write_text(json.dumps({**state, "model_hash": "other"}))
    with pytest.raises(RunError, match="other weights of the base model"):
        train(run.config, run=run, pipe=tiny_pipe)


def test_losses_beyond_numbers_are_said_so(tiny_config, tiny_pipe, tmp_path):
    with pytest.raises(RunError, match="Lower learning_rate"):
        train(
            tiny_config(
                learning_rate=1.0,
                prompt_learning_rate=100.0,
                steps=60,
                loss_space="x0",
                lambda_=1000,
                prompt_init_std=100,
            ),
            tmp_path,
            pipe=_exploding(tiny_pipe),
        )


def _exploding(pipe):
    import copy

    other = copy.deepcopy(pipe)
    other.unet.conv_out.weight.data *= 1e30
    del other._kpop_source
    return other


def test_another_pipeline_than_the_settings_name_is_refused(tiny_config, tiny_pipe, sd_folder, tmp_path):
    with pytest.raises(InputError, match="is not"):
        train(tiny_config(model=str(sd_folder)), tmp_path, pipe=tiny_pipe)


def test_a_half_precision_model_is_refused(tiny_config, tiny_folder, tmp_path):
    from kpop import load_pipeline

    pipe = load_pipeline(str(tiny_folder), device="cpu", dtype="fp16")
    with pytest.raises(ModelError, match="fp32 or bf16"):
        train(tiny_config(), tmp_path, pipe=pipe)


def test_words_too_long_for_the_model_are_refused_before_anything_starts(tiny_config, tiny_pipe, tmp_path):
    with pytest.raises(InputError, match="reads 77"):
        train(tiny_config(concepts=("zq" * 60,)), tmp_path, pipe=tiny_pipe)


@pytest.mark.parametrize(
    "changes",
    [
        {"mechanism": "additive"},
        {"trainable": "kv"},
        {"trainable": "selfattn"},
        {"trainable": "noxattn"},
        {"sites": "mid"},
        {"loss_space": "x0"},
        {"retain": (), "retain_neutral": False, "key_retain_weight": 0},
        {"neutral": "a photo"},
        {"precision": "bf16"},
        {"concepts": (("church", "chapel"), "background")},
        {"preset": "paper", "rollout_steps": 2},
    ],
)
def test_every_choice_trains_and_draws(tiny_config, tiny_pipe, tmp_path, changes):
    run = train(tiny_config(steps=2, **changes), tmp_path, pipe=tiny_pipe)
    before = dict(tiny_pipe.unet.named_parameters())
    moved = {n for n, t in tensors(run.weights_path).items() if not torch.equal(t, before[n].float())}
    assert moved
    assert generate(tiny_pipe, "a church", [0], "recovered", run)[0].size == (16, 16)


def test_starting_from_another_runs_weights(tiny_config, tiny_pipe, tmp_path):
    base = train(tiny_config(trainable="kv"), tmp_path, pipe=tiny_pipe)
    run = train(
        tiny_config(concepts=("background",), trainable="selfattn", base_run=base.id),
        tmp_path,
        pipe=tiny_pipe,
    )
    found, under = tensors(run.weights_path), tensors(base.weights_path)
    assert same(
        {name: found[name] for name in under}, under
    )  # a whole sanitized model, on the untouched base
    assert any(".attn1." in name for name in found)


def test_the_last_share_of_the_steps_is_the_keys_alone(tiny_config, tiny_pipe, tmp_path):
    half = train(tiny_config(steps=36, key_share=0.5, rate_decay=0), tmp_path, pipe=tiny_pipe)
    short = train(tiny_config(steps=18, key_share=0, rate_decay=0), tmp_path, pipe=tiny_pipe)
    assert same(tensors(half.weights_path), tensors(short.weights_path))
    assert not same(tensors(half.key_path("church")), tensors(short.key_path("church")))
    losses = [{name for name in row if name.startswith("l_")} for row in half.metrics()]
    alone = {"l_transfer", "l_key_retain"}
    assert losses == [alone | {"l_erase", "l_recover", "l_retain"}] * 18 + [alone] * 18


def test_a_v_prediction_model_trains(tiny_copy, tmp_path, tiny_config):
    path = tiny_copy / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "v_prediction"}))
    run = train(tiny_config(model=str(tiny_copy)), tmp_path / "runs", device="cpu")
    assert run.status.state == "done"


def test_a_stable_diffusion_shaped_model_trains_and_draws(sd_folder, tmp_path):
    """4 levels, 8 heads, d_c 768, 77 tokens, 64x64 latents; in its own process, for its memory's sake."""
    code = f"""
        import kpop
        cfg = kpop.EraseConfig(
            model={str(sd_folder)!r}, concepts=("church",), retain=("castle",), steps=1, batch_size=1,
            rollout_steps=2, sample_every=0,
        )
        run = kpop.train(cfg, {str(tmp_path)!r}, device="cpu")
        pipe = kpop.load_pipeline({str(sd_folder)!r}, device="cpu")
        config = kpop.GenerationConfig(steps=1)
        image = kpop.generate(pipe, "a church", 0, "recovered", run, config=config)[0]
        print(run.status.state, run.config.prompt_init_std, image.size)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.stdout.split("\n")[0] == "done 0.5 (512, 512)", done.stderr[-2000:]


@pytest.mark.parametrize(
    ("step", "decay", "left"),
    [(1, 0.0, 1.0), (200, 0.0, 1.0), (1, 0.5, 1.0), (101, 0.5, 1.0), (151, 0.5, 0.5), (200, 0.5, 0.01)],
)
def test_learning_rates_fall_linearly_at_the_end(step, decay, left):
    assert rate_left(step, 200, decay) == pytest.approx(left)
