"""Two processes on the CPU train as one with twice the batch."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from kpop import train
from kpop.hidden_prompt import HiddenPrompt
from kpop.runs import list_runs


def launch(folder, cfg, runs):
    """`torchrun -m kpop train` with two processes; the one run there is afterwards."""
    settings = folder / "settings.json"
    settings.write_text(json.dumps({k: v for k, v in cfg.to_dict().items() if v is not None}))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "kpop", "train", "--config", str(settings), "--runs", str(runs), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = list_runs(runs)[:1]
    assert done.stdout.splitlines()[-1] == str(run.path)  # one process speaks
    return run


@pytest.mark.parametrize("latents", ["bank", "fresh"])
def test_two_processes_are_one_with_twice_the_batch(tiny_config, tmp_path, latents):
    cfg = tiny_config(batch_size=1, latents=latents, key_retain_weight=1, negative_guidance=0.5)
    two = launch(tmp_path, cfg, tmp_path / "two")
    one = train(replace(cfg, batch_size=2), tmp_path / "one", device="cpu")
    assert two.status.state == "done" and two.checkpoint_step() == 4
    kinds = [name for name in one.metrics()[0] if name.startswith("l_")]
    assert len(two.metrics()) == len(one.metrics()) == 4 and len(kinds) == 5
    for a, b in zip(one.metrics(), two.metrics(), strict=True):
        assert [b[kind] for kind in kinds] == pytest.approx([a[kind] for kind in kinds], rel=1e-4, abs=1e-6)
    first, second = (load_file(run.weights_path) for run in (one, two))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=1e-4, rtol=0)
    first, second = (HiddenPrompt.load(run.key_path("church")) for run in (one, two))
    torch.testing.assert_close(second.key, first.key, atol=1e-3, rtol=0)
