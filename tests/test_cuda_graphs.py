"""Steps that are recorded once and launched again; a stand-in for the recording runs without a GPU."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from kpop import cuda_graphs, train, training
from kpop.cuda_graphs import Graphs, at_replay


class Recording:
    """Computes anew into the same tensors, as a graph does, from what it was made with alone."""

    def __init__(self):
        self.made = self.launched = 0

    def __call__(self, compute):
        named, gradients = compute()
        self.made += 1

        def launch():
            self.launched += 1
            again, new = compute()
            for name, value in again.items():
                named[name].copy_(value)
            for place, value in zip(gradients, new, strict=True):
                if place is not None:
                    place.copy_(value)

        return (named, gradients), launch


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"concepts": ("church", "background"), "steps": 6},
        {"mechanism": "additive", "key_share": 0.5},
        {"method": "esd", "negative_guidance": None},
    ],
)
def test_recorded_steps_train_as_others(tiny_config, tiny_pipe, tmp_path, monkeypatch, changes):
    cfg = tiny_config(**changes).resolved()
    plain = train(cfg, tmp_path / "plain", pipe=tiny_pipe)
    recording = Recording()
    monkeypatch.setattr(training, "worth_it", lambda *_: True)
    monkeypatch.setattr(training, "Graphs", lambda: Graphs(recording))
    recorded = train(cfg, tmp_path / "recorded", pipe=tiny_pipe)
    kinds = 1 if cfg.method == "esd" else 2 * len(cfg.concepts)
    assert 0 < recording.made <= kinds and recording.launched > recording.made
    expected = load_file(plain.weights_path)
    for name, tensor in load_file(recorded.weights_path).items():
        assert torch.equal(tensor, expected[name]), name
    losses = [[{k: v for k, v in row.items() if k.startswith("l_")} for row in run.metrics(None)]
              for run in (plain, recorded)]  # fmt: skip
    assert losses[0] == losses[1]


def test_a_recording_that_fails_costs_nothing_but_speed(tiny_config, tiny_pipe, tmp_path, monkeypatch):
    def refused(compute):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(training, "worth_it", lambda *_: True)
    monkeypatch.setattr(training, "Graphs", lambda: Graphs(refused))
    with pytest.warns(UserWarning, match="without CUDA graphs: operation not permitted"):
        run = train(tiny_config().resolved(), tmp_path, pipe=tiny_pipe)
    assert run.status.state == "done"


def test_what_is_told_while_recording_is_told_at_every_launch(monkeypatch):
    told = []
    assert not at_replay(lambda: told.append(1))

    def compute():
        at_replay(lambda: told.append(1))
        return {}, ()

    batch = type("NoBatch", (), {"earlier": None, "decoys": (), "kept_keys": ()})()
    monkeypatch.setattr(cuda_graphs, "_tensors", lambda _: [])
    monkeypatch.setattr(cuda_graphs, "_copied", lambda it: it)
    graphs = Graphs(lambda compute: (compute(), lambda: None))
    for _ in range(3):
        graphs.run(("removal",), batch, lambda _: compute())
    assert told == [1, 1, 1]


def test_only_a_gpu_with_room_records_and_only_when_asked(tiny_config, monkeypatch):
    cfg, gpu = tiny_config().resolved(), torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    free = {"bytes": 60}
    monkeypatch.setattr(cuda_graphs, "free_memory", lambda device: free["bytes"])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=100))
    assert not cuda_graphs.worth_it(cfg, gpu)
    monkeypatch.setenv("KPOP_GRAPHS", "1")
    assert cuda_graphs.worth_it(cfg, gpu)
    assert not cuda_graphs.worth_it(cfg, torch.device("cpu"))
    assert not cuda_graphs.worth_it(cfg, gpu, processes=2)
    assert not cuda_graphs.worth_it(replace(cfg, gradient_checkpointing=True), gpu)
    assert not cuda_graphs.worth_it(tiny_config(mechanism="token").resolved(), gpu)
    free["bytes"] = 50
    assert not cuda_graphs.worth_it(cfg, gpu)
