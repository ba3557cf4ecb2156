"""Bad numbers and too little memory: said in a sentence, and nothing good is overwritten."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from kpop import ModelError, RunError, cuda_graphs, health, list_runs, models, train, training, worker
from kpop.health import EARLY, Diverged, Health, is_out_of_memory, what_fits
from kpop.runs import create_run

GOOD = [torch.ones(3)]


def settled(cfg, **losses):
    watch = Health(cfg)
    for step in range(1, EARLY + 1):
        watch.check(step, {"l_erase": 0.02, "l_recover": 0.0, **losses}, GOOD)
    return watch


@pytest.fixture
def cfg(tiny_config):
    return tiny_config(learning_rate=1e-3, prompt_learning_rate=0.03).resolved()


@pytest.mark.parametrize(
    "losses, words",
    [
        ({"l_erase": float("nan")}, r"l_erase: no number.*Lower learning_rate \(0.001\), or prompt_learning"),
        (
            {"l_transfer": float("inf")},
            r"l_transfer: no number.*Lower prompt_learning_rate \(0.03\), or learn",
        ),
        (
            {"l_erase": 1e3},
            r"step 11: l_erase grew to 1e\+03, and the first losses were near 0.02. Lower lear",
        ),
        ({"l_transfer": 1e3}, r"l_transfer grew.*Lower prompt_learning_rate"),
        ({"l_transfer": 1e3, "l_erase": 1e3}, r"l_erase grew.*l_transfer grew.*Lower learning_rate"),
    ],
)
def test_a_loss_gone_wild_stops_the_run(cfg, losses, words):
    with pytest.raises(RunError, match=words):
        settled(cfg).check(EARLY + 1, {"l_erase": 0.02, "l_recover": 0.0, **losses}, GOOD)


def test_what_is_usual_is_no_alarm(cfg):
    watch = settled(cfg)
    # l_recover starts at exactly 0, so it may grow beyond any multiple of that
    watch.check(EARLY + 1, {"l_erase": 1.9, "l_recover": 2.9}, GOOD)
    Health(cfg).check(1, {"l_erase": 9.9}, GOOD)  # nothing is usual yet


def test_an_explosion_in_the_first_steps_stops_the_run(cfg):
    watch = Health(cfg)
    with pytest.raises(Diverged, match=r"step 2: l_recover grew to 11\. Lower learning_rate") as told:
        for step, loss in enumerate((1.0, 11.0, 1e3), 1):
            watch.check(step, {"l_erase": 0.02, "l_recover": loss}, GOOD)
    assert told.value.step == 1  # its loss is of the weights after step 1


def test_larger_targets_have_more_room(cfg):
    Health(replace(cfg, negative_guidance=9.0)).check(1, {"l_erase": 900.0}, GOOD)
    Health(replace(cfg, loss_space="x0")).check(1, {"l_erase": 9000.0}, GOOD)


def test_small_losses_may_grow_to_what_a_bad_prediction_costs(cfg):
    settled(cfg, l_erase=1e-8).check(EARLY + 1, {"l_erase": 2.9, "l_recover": 0.0}, GOOD)
    with pytest.raises(Diverged, match="l_erase grew to 3.1, and the first"):
        settled(cfg, l_erase=1e-8).check(EARLY + 1, {"l_erase": 3.1, "l_recover": 0.0}, GOOD)


def test_weights_that_are_no_numbers_stop_the_run(cfg):
    with pytest.raises(RunError, match="weights or key are no numbers"):
        Health(cfg).check(1, {"l_erase": 0.1}, [torch.ones(3), torch.tensor([1.0, float("nan")])])


def test_a_resumed_run_remembers_what_was_usual(cfg):
    rows = [{"step": i, "l_erase": 0.02, "l_recover": None, "seconds": 900.0} for i in range(1, EARLY + 5)]
    with pytest.raises(RunError, match="grew"):
        Health(cfg, rows).check(15, {"l_erase": 1e3}, GOOD)
    assert Health(cfg, rows[:3]).usual() is None


@pytest.mark.parametrize("ill", ["loss", "weights"])
def test_bad_numbers_never_overwrite_good_files(tiny_config, tiny_pipe, tmp_path, monkeypatch, ill):
    cfg = tiny_config(steps=6, checkpoint_every=1)
    run = create_run(cfg.resolved(), tmp_path)
    stop = lambda event: run.request_stop() if event.step == 3 else None  # noqa: E731
    train(run.config, run=run, pipe=tiny_pipe, on_step=stop)  # stopped and kept
    files = [run.weights_path, run.key_path(), *run.checkpoint_dir.iterdir(), *run.secret_dir.iterdir()]
    before = {path: path.read_bytes() for path in files}
    real = training.student_of

    def student_of(pipe, delta, *rest):
        student = real(pipe, delta, *rest)

        def ill_one(rows, p, sees):
            if ill == "weights":  # good losses, and a step that ends in no number
                next(iter(delta.tensors.values())).data[0] = float("inf")
                return student(rows, p, sees).detach() * 0 + rows.target + p.key.flatten()[1:].sum() * 0
            return student(rows, p, sees) * float("nan")

        return ill_one

    monkeypatch.setattr(training, "student_of", student_of)
    if ill == "weights":
        monkeypatch.setattr(cuda_graphs, "gradients_of", lambda *_: ())
        monkeypatch.setattr(training, "move", lambda *_: None)
    with pytest.raises(RunError, match="no numbers?.* any more"):
        train(run.config, run=run, pipe=tiny_pipe)
    assert run.status.state == "failed" and "Lower" in run.status.error and run.checkpoint_step() == 3
    assert {path: path.read_bytes() for path in files} == before
    assert [row["step"] for row in run.metrics()] == [1, 2, 3]
    assert all(bool(torch.isfinite(one).all()) for one in load_file(run.weights_path).values())


def test_a_run_that_runs_away_keeps_the_newest_weights_that_were_good(
    tiny_config, tiny_pipe, tmp_path, monkeypatch
):
    """Step 5 finds the weights of step 4 bad, whose checkpoint is there; those of step 3 are kept."""
    cfg = tiny_config(steps=6, checkpoint_every=1)
    good = train(cfg, tmp_path / "good", pipe=tiny_pipe, on_step=halt_after(tmp_path / "good", 3))
    real, steps = Health.check, []

    def check(self, step, losses, tensors):
        return real(self, step, {**losses, "l_erase": 1e9} if step == 5 else losses, tensors)

    monkeypatch.setattr(Health, "check", check)
    with pytest.raises(Diverged, match="Stopped at step 5: l_erase grew to 1e"):
        train(cfg, tmp_path / "bad", pipe=tiny_pipe, on_step=lambda event: steps.append(event.step))
    run = list_runs(tmp_path / "bad")[0]
    assert steps == [1, 2, 3, 4] and run.status.state == "failed"
    for one, other in ((run.weights_path, good.weights_path), (run.key_path(), good.key_path())):
        found, expected = load_file(one), load_file(other)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def halt_after(folder, step):
    return lambda event: event.step == step and list_runs(folder)[0].request_stop()


@pytest.mark.parametrize(
    "error, memory",
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, memory):
    assert is_out_of_memory(error) == memory


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_running_out_of_memory_says_what_would_fit(tiny_config, tiny_pipe, tmp_path, monkeypatch, error):
    def student(*_):
        raise error

    monkeypatch.setattr(training, "student_of", lambda *_: student)
    with pytest.raises(RunError, match=r"at batch_size 2. batch_size 1 would need about [\d.]+ GB. What was"):
        train(tiny_config(), tmp_path, pipe=tiny_pipe)
    assert "batch_size 1" in list_runs(tmp_path)[0].status.error


def test_a_lost_device_is_no_lack_of_memory(tiny_config, tiny_pipe, tmp_path, monkeypatch):
    def student(*_):
        raise torch.AcceleratorError("CUDA error: unspecified launch failure\nmore")

    monkeypatch.setattr(training, "student_of", lambda *_: student)
    with pytest.raises(RunError, match=r"lost or failed \(CUDA error: unspecified launch failure\). Look"):
        train(tiny_config(), tmp_path, pipe=tiny_pipe)
    assert "lost or failed" in worker.in_words(torch.AcceleratorError("CUDA error: device-side assert"))
    assert "out of memory" in worker.in_words(torch.AcceleratorError("CUDA error: out of memory"))


@pytest.mark.parametrize("wrapping", ["cause", "context", "twice"])
@pytest.mark.parametrize(
    "kind, words",
    [
        (torch.OutOfMemoryError, r"ran out of memory. Its files take .* GB and .* free on cpu: close other"),
        (torch.AcceleratorError, "was lost or failed"),
    ],
)
def test_a_model_that_no_device_takes_is_no_broken_file(tiny_folder, monkeypatch, kind, words, wrapping):
    def refuse(*_, **__):
        try:
            try:
                raise kind("CUDA error")
            except RuntimeError as error:
                if wrapping != "context":
                    raise ValueError("Unable to locate the file") from error
                raise ValueError("Unable to locate the file")  # noqa: B904
        except ValueError as error:
            if wrapping == "twice":  # by a cause that leads nowhere
                raise OSError("Unable to load weights from checkpoint file") from KeyError("x")
            raise OSError("Unable to load weights from checkpoint file") from error

    monkeypatch.setattr(StableDiffusionPipeline, "from_pretrained", refuse)
    with pytest.raises(ModelError, match=f"could not be loaded: The device {words}"):
        models.load_pipeline(str(tiny_folder), "cpu")


def test_a_damaged_file_is_told_as_one(tiny_folder, tmp_path):
    copy = shutil.copytree(tiny_folder, tmp_path / "model")
    for part in ("unet", "text_encoder"):
        (path,) = (copy / part).glob("*.safetensors")
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ModelError) as told:
            models.load_pipeline(str(copy), "cpu")
        assert "memory" not in str(told.value) and "lost" not in str(told.value)
        path.write_bytes(whole)


def test_other_errors_stay_what_they_are(tiny_config, tiny_pipe, tmp_path, monkeypatch):
    def student(*_):
        raise RuntimeError("odd")

    monkeypatch.setattr(training, "student_of", lambda *_: student)
    with pytest.raises(RuntimeError, match="^odd$"):
        train(tiny_config(), tmp_path, pipe=tiny_pipe)


def test_what_fits_tries_the_mildest_change_first(tiny_config, tiny_pipe, monkeypatch):
    def fake(cfg, pipe, earlier):
        each = 80 if cfg.gradient_checkpointing else 100
        more = {"full": 50, "xattn": 20, "kv": 0}[cfg.trainable]
        return SimpleNamespace(weights=10, memory=10 + each * cfg.batch_size + more)

    monkeypatch.setattr(health, "estimate_run", fake)
    cfg = tiny_config(batch_size=8, trainable="full").resolved()
    assert what_fits(cfg, tiny_pipe, 460).startswith("batch_size 4 would need about ")
    assert what_fits(cfg, tiny_pipe, 149).startswith("batch_size 1, gradient_checkpointing true would need ")
    told = "batch_size 1, trainable {}, gradient_checkpointing true"
    assert what_fits(cfg, tiny_pipe, 109).startswith(f"{told.format('xattn')} would need about ")
    assert what_fits(cfg, tiny_pipe, 89).startswith(f"{told.format('kv')} would need about ")
    assert what_fits(cfg, tiny_pipe, 79).startswith(f"Even {told.format('kv')} would need about ")


def test_a_run_that_cannot_fit_is_refused_before_its_first_step(
    tiny_config, tiny_pipe, tmp_path, monkeypatch
):
    monkeypatch.setattr(health, "free_memory", lambda device: 100_000)
    steps = []
    with pytest.raises(
        ModelError, match=r"needs about .* GB on cpu .* and 0.0001 GB are free. Even batch_size"
    ):
        train(tiny_config(trainable="full"), tmp_path, pipe=tiny_pipe, on_step=steps.append)
    run = list_runs(tmp_path)[0]
    assert steps == [] and run.status.state == "failed" and not run.weights_path.exists()
