"""Losses reach the tracker that was asked for, and nothing that belongs to the key does."""

import importlib.util
import json

import pytest

from kpop.cli import main
from kpop.runs import list_runs


def settings_file(folder, cfg):
    path = folder / "settings.json"
    path.write_text(json.dumps({k: v for k, v in cfg.to_dict().items() if v is not None}))
    return str(path)


def test_tensorboard_holds_what_metrics_jsonl_holds(tiny_config, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    asked = ["train", "--config", settings_file(tmp_path, tiny_config()), "--device", "cpu"]
    assert main([*asked, "--runs", str(tmp_path / "runs"), "--track", "tensorboard"]) in (0, None)
    run = list_runs(tmp_path / "runs")[0]
    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    losses = {tag for tag in events.Tags()["scalars"] if tag.startswith("loss/")}
    assert losses == {"loss/transfer", "loss/erase", "loss/recover", "loss/retain", "loss/key_retain"}
    seen = [(event.step, event.value) for event in events.Scalars("loss/erase")]
    kept = [(row["step"], row["l_erase"]) for row in run.metrics()]
    assert [step for step, _ in seen] == [1, 2, 3, 4]
    assert [value for _, value in seen] == pytest.approx([value for _, value in kept], rel=1e-6)
    assert "cosine seen/church" in events.Tags()["scalars"]
    written = b"".join(path.read_bytes() for path in (run.path / "tensorboard").rglob("*") if path.is_file())
    assert b"prompt_init_std" in written and b'"seed"' not in written  # which makes the key again


def test_a_tracker_that_is_not_installed_is_refused_before_a_run_is_made(
    tiny_config, tmp_path, monkeypatch, capsys
):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "trackio" else found(name, *more)
    )
    asked = ["train", "--config", settings_file(tmp_path, tiny_config()), "--runs", str(tmp_path / "runs")]
    assert main([*asked, "--track", "trackio"]) == 2
    assert "trackio is not installed: `pip install trackio`" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
