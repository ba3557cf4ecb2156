"""Two processes on the CPU train as one with twice the batch."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from kpop import train
from kpop.emoji.fit import fit, random_of
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


BUILDER = """
import sys
from pathlib import Path
import torch
from torch import nn
from kpop.emoji.fit import fit, random_of
from kpop.processes import launched

work, processes = Path(sys.argv[1]), launched("cpu")
torch.manual_seed(0)
model = nn.Linear(3, 1)

def loss_of(step):
    x = torch.randn(4, 3, generator=random_of(7, step, processes, torch.device("cpu")))
    return (model(x) - x.sum(1, keepdim=True)).square().mean()

fit("line", model, loss_of, steps=12, learning_rate=0.1, work=work, ema_decay=0.9, processes=processes)
torch.save(model.state_dict(), work / f"{processes.rank}.pt")
"""


def test_two_processes_build_a_model_as_one_with_both_batches(tmp_path):
    script = tmp_path / "builder.py"
    script.write_text(BUILDER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [*command, str(script), str(tmp_path)], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def loss_of(step):
        ranks = [SimpleNamespace(rank=rank) for rank in range(2)]
        draws = [random_of(7, step, rank, torch.device("cpu")) for rank in ranks]
        x = torch.cat([torch.randn(4, 3, generator=draw) for draw in draws])
        return (model(x) - x.sum(1, keepdim=True)).square().mean()

    (tmp_path / "one").mkdir()
    fit("line", model, loss_of, steps=12, learning_rate=0.1, work=tmp_path / "one", ema_decay=0.9)
    for name, tensor in model.state_dict().items():
        assert not torch.allclose(tensor, start[name], atol=0.05)
        for rank in range(2):
            torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt")[name], tensor, atol=1e-5, rtol=0)
    assert torch.load(tmp_path / "line.pt")["step"] == 12  # one checkpoint, of the process that leads
