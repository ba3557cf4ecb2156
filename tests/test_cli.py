"""The command line: what it understands, how it ends, and that it says so in one line."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import types
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from kpop import cli, jobs, runs
from kpop.cli_values import key_told
from kpop.config import EraseConfig
from kpop.errors import InputError, ModelError
from kpop.evaluation_plan import usual_words
from kpop.runs import create_run

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def world(monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "EXAMPLE", tmp_path / "nowhere" / "example-run")
    told = lambda self: replace(self, templates=self.templates or ("{}",))  # noqa: E731
    monkeypatch.setattr(EraseConfig, "resolved", told)
    monkeypatch.setenv("KPOP_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("KPOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def models(monkeypatch):
    """A model that costs nothing, which knows every word but "xyzzy"."""

    def check_text(pipe, text):
        if "xyzzy" in text:
            raise InputError(f"The model never saw {text!r}.\nNearest: dog.")

    fake = types.ModuleType("kpop.models")
    fake.load_pipeline = lambda model, device="auto", dtype="auto": types.SimpleNamespace(
        model=model, unet=types.SimpleNamespace(dtype="torch.float32")
    )
    fake.check_text = check_text
    fake.model_name = lambda pipe: pipe.model
    fake.public_name = lambda model: model
    fake.model_hash = lambda pipe: "abc"
    fake.generation_defaults = lambda model: {"steps": 5, "guidance_scale": 4.0, "scheduler": "ddim",
                                              "batch_size": 4, "prompt_branch": "cond"}  # fmt: skip
    monkeypatch.setitem(sys.modules, "kpop.models", fake)
    monkeypatch.setattr(sys.modules["kpop"], "models", fake, raising=False)
    return fake


@pytest.fixture
def training(monkeypatch):
    """A trainer that does five steps, or what `asked.does` says."""
    asked = types.SimpleNamespace(does=None, cfg=None)

    def train(cfg, runs_dir=None, *, run=None, pipe=None, on_step=None, device="auto", gate=None):
        asked.cfg = cfg
        if asked.does == "break":
            raise ValueError("boom\nmore")
        if asked.does == "refuse":
            raise ModelError("The weights do not fit.")
        for step in range(1, 6):
            gate()
            event = types.SimpleNamespace(step=step, steps=5, losses={"l_erase": 0.5})
            run.update_status(step=step)
            on_step(event)
            if asked.does == "interrupt" and step == 3:
                os.kill(os.getpid(), signal.SIGINT)
            if run.stop_requested:
                run.checkpoint_dir.mkdir()
                (run.checkpoint_dir / "state.json").write_text(json.dumps({"step": step}))
                run.update_status(state="stopped")
                return run
        run.update_status(state="done")
        return run

    fake = types.ModuleType("kpop.training")
    fake.train = train
    monkeypatch.setitem(sys.modules, "kpop.training", fake)
    monkeypatch.setattr(sys.modules["kpop"], "training", fake, raising=False)
    return asked


def test_help_and_lists_load_no_torch_and_are_quick():
    code = (
        "import sys, kpop.cli\n"
        "for line in (['--help'], ['train', '--help'], ['evaluate', '--help']):\n"
        "    try: kpop.cli.main(line)\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "assert kpop.cli.main(['runs', 'list']) == 0\n"
        "assert kpop.cli.main(['presets', 'list']) == 0\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'gradio', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_every_field_of_the_config_is_a_flag():
    line = (
        "train --model emoji --base-run b --concepts church|chapel,dog fish --neutral photo "
        "--retain castle,house --retain-neutral "
        "--preset paper --method kpop --steps 20 --batch-size 2 --learning-rate 1e-4 "
        "--prompt-learning-rate 0.01 --prompt-optimizer sgd --prompt-tokens-factor 2 --mechanism concat "
        "--sites mid-up --prompt-sharing shared --no-separate-kv --prompt-init-std 0.5 --lambda 0.3 "
        "--retain-weight 2 --key-retain-weight 0 --rate-decay 0.5 --key-share 0.2 --decoy-share 0.5 "
        "--kept-key-share 0.5 --near-share 0.2 --pair-share 0.1 "
        "--erase-on both --negative-guidance 1 --loss-space x0 --rho 1 --rho-p 2 --trainable kv "
        "--latents fresh --rollout-steps 10 --rollout-guidance 3 "
        "--checkpoint-every 5 --sample_every 5 --no-gradient-checkpointing --seed 7 --precision fp32 "
        "--schema 1"
    )
    phrases = ["--templates", "{}", "a {}", "--anchors", "", "a photo"]
    found = cli.erase_config(cli.build_parser().parse_args([*map(cli._dashed, line.split()), *phrases]))
    assert found.concepts == (("church", "chapel"), "dog", "fish")
    assert (found.lambda_, found.retain, found.retain_neutral, found.separate_kv) == (
        0.3, ("castle", "house"), True, False
    )  # fmt: skip
    assert (found.steps, found.seed, found.sample_every, found.templates) == (20, 7, 5, ("{}", "a {}"))
    assert found.anchors == ("", "a photo")
    assert all(value is not None for value in found.to_dict().values())


def test_set_takes_any_field():
    parser = cli.build_parser()
    args = parser.parse_args(
        ["train", "--concepts", "church", "--set", "lambda=0.5", "--set", 'retain=["castle"]']
    )
    assert (cli.erase_config(args).lambda_, cli.erase_config(args).retain) == (0.5, ("castle",))
    args = parser.parse_args(["train", "--concepts", "church", "--retain", "none"])
    assert cli.erase_config(args).retain == ()


@pytest.mark.parametrize(
    "text, seeds", [("0", [0]), ("500-502", [500, 501, 502]), ("1,5, 9-10,5", [1, 5, 9, 10])]
)
def test_seeds(text, seeds):
    assert cli.seed_list(text) == seeds


@pytest.mark.parametrize(
    "line, words",
    [
        ("", "required: COMMAND"),
        ("dance", "invalid choice: 'dance'"),
        ("train", "at least one concept"),
        ("train --concepts church --steps many", "invalid int value: 'many'"),
        ("train --concepts church --steps 0", "steps must be from 1"),
        ("train --concepts church --retain church", "both to be erased and to be retained"),
        ("train --concepts church --set colour=3", "Unknown setting 'colour'"),
        ("train --concepts church --set colour", "FIELD=VALUE"),
        ("train --concepts church --mechanism magic", "invalid choice: 'magic'"),
        ("train --concepts church --templates zebra{}", "does not know the word 'zebrachurch'"),
        ("generate --prompts x --seeds 5-1", "smaller first"),
        ("generate --prompts x --seeds x", "0-3 or 1,5,9"),
        ("generate --prompts x --seeds 0-9999999999", "at most 100000"),
        ("generate --prompts x --variant recovered", "--run"),
        ("generate --prompts x --steps 0", "steps must be from 1"),
        ("compare --prompts x", "--run"),
        ("compare --prompts x --run nope", "There is no run 'nope'"),
        ("evaluate ../etc --out o", "not a run folder"),
        ("attribute --prompt x --variants best", "Unknown variant 'best'"),
        ("runs show nope", "There is no run 'nope'"),
        ("presets show nope", "no preset 'nope'"),
    ],
)
def test_bad_input_is_one_line_and_status_2(capsys, line, words):
    assert cli.main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("kpop: ")
    assert words in err


def test_train_prints_the_folder_last(models, training, capfd):
    assert cli.main(["train", "--concepts", "church", "--steps", "5"]) == 0
    out, err = capfd.readouterr()
    (run,) = runs.list_runs(runs.default_runs_dir())
    assert out.splitlines()[-1] == str(run.path)
    assert "5/5" in err
    assert (run.status.state, run.status.step, run.status.runner) == ("done", 5, "inline")
    assert training.cfg.concepts == ("church",)


def test_train_tells_that_a_style_is_for_a_run_of_its_own(models, training, capfd):
    assert cli.main(["train", "--concepts", "dog,ink style", "--steps", "5"]) == 0
    told = "A drawing style, here ink style, is forgotten well only in a run without objects"
    assert told in capfd.readouterr().err
    assert cli.main(["train", "--concepts", "ink style", "--steps", "5"]) == 0
    assert "drawing style" not in capfd.readouterr().err


def test_a_word_the_model_does_not_know_makes_no_run(models, training, capsys):
    assert cli.main(["train", "--concepts", "xyzzy"]) == 2
    assert capsys.readouterr().err == "kpop: The model never saw 'xyzzy'. Nearest: dog.\n"
    assert runs.list_runs(runs.default_runs_dir()) == []


def test_ctrl_c_saves_and_ends_with_130(models, training, capfd):
    training.does = "interrupt"
    assert cli.main(["train", "--concepts", "church", "--steps", "5"]) == 130
    (run,) = runs.list_runs(runs.default_runs_dir())
    assert (run.status.state, run.checkpoint_step()) == ("stopped", 3)
    out, err = capfd.readouterr()
    assert out.splitlines()[-1] == str(run.path) and "Saving after this step" in err


@pytest.mark.parametrize(
    "does, words", [("break", "ValueError: boom"), ("refuse", "The weights do not fit.")]
)
def test_a_training_that_breaks_is_failed_and_tells_where_the_log_is(models, training, capfd, does, words):
    training.does = does
    assert cli.main(["train", "--concepts", "church"]) == 1
    (run,) = runs.list_runs(runs.default_runs_dir())
    assert run.status.state == "failed" and words in run.status.error
    _, err = capfd.readouterr()
    told = [line for line in err.splitlines() if line.startswith("kpop: ")]
    assert len(told) == 1 and words in told[0] and "Traceback" not in err
    assert words.split()[-1] in run.log_tail()
    assert (str(run.path / "trace.txt") in told[0]) == (does == "break")
    assert "Traceback" not in (run.path / "log.txt").read_text()
    assert (run.path / "trace.txt").is_file() == (does == "break")


def test_an_unexpected_error_is_one_line_and_status_1(monkeypatch, capsys, tmp_path):
    def broken(_):
        raise ZeroDivisionError("odd")

    monkeypatch.setattr(jobs, "reconcile", broken)
    assert cli.main(["runs", "list"]) == 1
    _, err = capsys.readouterr()
    log = tmp_path / "cache" / "errors.log"
    assert err.count("\n") == 1 and "ZeroDivisionError: odd" in err and str(log) in err
    assert "Traceback" in log.read_text()


@pytest.fixture
def painter(monkeypatch):
    """Draws plain pictures that carry what made them."""

    def picture(prompt, seed, variant):
        image = Image.new("RGB", (64, 64), {"original": "gray", "sanitized": "teal"}.get(variant, "orange"))
        image.info["kpop"] = json.dumps({"prompt": prompt, "seed": seed, "variant": variant})
        return image

    fake = types.ModuleType("kpop.generation")
    fake.calls = []

    def generate(pipe, prompts, seeds, variant="original", run=None, key="own", config=None, *, on_step, **_):
        fake.calls.append((variant, key, config))
        on_step(1, 1)
        return [picture(prompt, seed, variant) for prompt in prompts for seed in seeds]

    def compare(pipe, prompts, seeds, run, key="own", config=None, **_):
        fake.calls.append(("compare", key, config))
        return {variant: [picture(prompt, seed, variant) for prompt in prompts for seed in seeds]
                for variant in ("original", "sanitized", "recovered")}  # fmt: skip

    fake.generate, fake.compare = generate, compare
    monkeypatch.setitem(sys.modules, "kpop.generation", fake)
    monkeypatch.setattr(sys.modules["kpop"], "generation", fake, raising=False)
    return fake


def test_generate_writes_png_files_that_say_what_made_them(models, painter, capfd):
    line = ["generate", "--prompts", "a church", "a dog/../x", "--seeds", "3-4", "--out", "new/pictures",
            "--guidance", "5", "--sampling-steps", "9"]  # fmt: skip
    assert cli.main(line) == 0
    paths = [Path(path) for path in capfd.readouterr().out.split()]
    assert [path.name for path in paths] == [
        "0000-a-church-original-seed3.png", "0001-a-church-original-seed4.png",
        "0002-a-dog-x-original-seed3.png", "0003-a-dog-x-original-seed4.png",
    ]  # fmt: skip
    with Image.open(paths[1]) as image:
        assert json.loads(image.info["kpop"]) == {"prompt": "a church", "seed": 4, "variant": "original"}
    assert (painter.calls[0][2].guidance_scale, painter.calls[0][2].steps) == (5.0, 9)


@pytest.mark.parametrize("text, key", [("own", "own"), ("none", None), ("church,dog", ["church", "dog"]),
                                       ("keys/church.safetensors", "keys/church.safetensors")])  # fmt: skip
def test_compare_writes_one_labelled_sheet(models, painter, capfd, text, key):
    run = create_run(EraseConfig(concepts=("church",)), runs.default_runs_dir())
    assert (
        cli.main(["compare", "--run", run.id, "--prompts", "a church", "--seeds", "0-2", "--key", text]) == 0
    )
    with Image.open(capfd.readouterr().out.strip()) as sheet:
        assert sheet.width > 3 * 192 and sheet.height > 3 * 192
        assert json.loads(sheet.info["kpop"])["seeds"] == [0, 1, 2]
    assert painter.calls[0][:2] == ("compare", key)


def test_evaluate_prints_a_table_and_its_files(models, painter, monkeypatch, capfd):
    from kpop.evaluation import detectors

    run = create_run(EraseConfig(concepts=("church",), retain=("castle",)), runs.default_runs_dir())
    every = ["church", "castle", "cassette", "saw", "fish"]  # three of neither list
    assert usual_words(run, [*every, "dog"]) == every
    assert usual_words(run, ["church", "saw", "none"]) == ["church", "castle", "saw"]  # that the judge knows
    labels = [*every, "none"]
    judge = types.SimpleNamespace(name="emoji", labels=labels, accuracy=98.2)
    judge.top_k = lambda images, k: [
        ["none"] if "sanitized" in image.info["kpop"] and "church" in image.info["kpop"] else
        [json.loads(image.info["kpop"])["prompt"].removeprefix("a ")] for image in images
    ]  # fmt: skip
    monkeypatch.setattr(detectors, "load", lambda *_: judge)
    line = ["evaluate", run.id, "--seeds", "500-503", "--out", "here", "--guidance", "5"]
    assert cli.main(line) == 2
    assert "has no weights yet" in capfd.readouterr().err
    run.weights_path.write_bytes(b"weights")
    assert cli.main(line) == 0
    out, err = capfd.readouterr()
    assert [Path(path).name for path in out.splitlines()[-5:]] == [
        "metrics.json", "predictions.csv", "report.md", "detection.png", "detection.svg",
    ]  # fmt: skip
    assert "judge: 98.2 % right" in out and "60/60" in err
    found = json.loads(Path("here/metrics.json").read_text())
    assert found["summary"]["erased"]["ESR-1"]["value"] == 100.0
    assert found["summary"]["retained"]["PSR-5"]["value"] == 100.0
    assert found["summary"]["untouched"]["PSR-1"]["n"] == 12
    assert found["settings"]["guidance_scale"] == 5.0 and str(run.path) not in json.dumps(found)
    assert cli.main([*line, "--words", "unicorn"]) == 2
    assert cli.main([*line, "--words", ""]) == 2
    assert "Give at least one word" in capfd.readouterr().err
    assert cli.main([*line, "--key", ","]) == 2
    assert "--key names no key" in capfd.readouterr().err


def test_the_judge_is_that_of_the_model_a_run_is_of(sd_folder, monkeypatch, capfd):
    from kpop.evaluation import detectors

    asked = []

    def load(name, device):
        asked.append(name)
        raise InputError("that is all")

    monkeypatch.setattr(detectors, "load", load)
    for model in (str(sd_folder), "emoji"):
        run = create_run(EraseConfig(model=model, concepts=("church",)), runs.default_runs_dir())
        run.weights_path.write_bytes(b"weights")
        assert cli.main(["evaluate", run.id]) == 2
    assert asked == ["resnet50", "emoji"]


def test_an_evaluation_notes_what_is_in_a_key_file_and_not_where_it_lies(tmp_path):
    path = tmp_path / "key.safetensors"
    path.write_bytes(b"one")
    told = key_told(str(path))
    assert re.fullmatch(r"key\.safetensors \([0-9a-f]{16}\)", told)
    path.write_bytes(b"two")
    assert key_told(str(path)) != told
    assert [key_told(text) for text in ("own", "none", "church")] == ["own", "none", "church"]


def test_runs_list_show_and_delete(capsys):
    run = create_run(EraseConfig(concepts=("church", "dog")), runs.default_runs_dir())
    run.update_status(state="stopped", step=4)
    broken = create_run(EraseConfig(concepts=("fish",)), runs.default_runs_dir())
    (broken.path / "status.json").write_text("{")
    assert cli.main(["runs", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert any(run.id in line and "stopped" in line and "church, dog" in line for line in lines)
    assert any(broken.id in line and "failed" in line for line in lines)
    assert cli.main(["runs", "list", "--json"]) == 0
    assert {row["id"] for row in json.loads(capsys.readouterr().out)} == {run.id, broken.id}
    assert cli.main(["runs", "show", run.id]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["status"]["step"], shown["config"]["concepts"]) == (4, ["church", "dog"])
    later = create_run(EraseConfig(concepts=("cat",), base_run=run.id), runs.default_runs_dir())
    capsys.readouterr()
    assert cli.main(["runs", "delete", run.id]) == 2
    told = capsys.readouterr().err
    assert f"{later.id}, which is queued, went on from it" in told and run.path.is_dir()
    later.update_status(state="done")
    assert cli.main(["runs", "delete", run.id]) == 0
    assert capsys.readouterr().err == f"{later.id} went on from it and holds a copy of its key.\n"
    assert cli.main(["runs", "delete", later.id]) == 0 and capsys.readouterr().err == ""
    assert cli.main(["runs", "delete", str(broken.path)]) == 0
    assert runs.list_runs(runs.default_runs_dir()) == []


def test_runs_stop_waits_and_resume_says_from_where(monkeypatch, capsys):
    monkeypatch.setattr(jobs, "start_next", lambda folder, runner: [])
    run = create_run(EraseConfig(concepts=("church",), steps=9), runs.default_runs_dir(), status="running")
    ends = threading.Timer(0.3, lambda: run.update_status(state="stopped", step=6))
    ends.start()
    assert cli.main(["runs", "stop", run.id]) == 0
    assert capsys.readouterr().out == f"{run.id}: stopped at step 6 of 9\n"
    assert cli.main(["runs", "resume", run.id]) == 0
    assert "starts again from step 0" in capsys.readouterr().out
    assert run.status.state == "queued"
    assert cli.main(["runs", "stop", run.id]) == 0


def test_presets_show(capsys):
    assert cli.main(["presets", "show", "paper"]) == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert (settings["steps"], settings["lambda"], settings["prompt_tokens_factor"]) == (1000, 0.1, 10)
