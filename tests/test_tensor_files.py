"""Tensors on disk: nothing held twice, nothing lost where the disk refuses, secrets nobody else's."""

import errno
import os
import stat
import tracemalloc

import pytest
import torch
from safetensors import SafetensorError

from kpop import RunError, checkpoint, disk
from kpop.estimate import Live
from kpop.runs import Run
from kpop.tensor_files import read_tensors, write_tensors


def test_a_secret_is_nobody_elses_from_its_first_byte_on(tmp_path, monkeypatch):
    modes = []
    real = os.fsync

    def look(number):
        modes.extend(stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir())
        real(number)

    monkeypatch.setattr(disk.os, "fsync", look)
    write_tensors(tmp_path / "key", {"p": torch.ones(3)}, {}, mode=0o600)
    assert modes == [0o700]  # of the folder that it is written in
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    (tmp_path / "like").touch()
    write_tensors(tmp_path / "open", {"p": torch.ones(3)}, {}, mode=0o666)
    assert (tmp_path / "open").stat().st_mode == (tmp_path / "like").stat().st_mode


def test_what_a_killed_process_left_is_cleared(tmp_path):
    left = tmp_path / ".theta-9.safetensors.999999999.5.tmp"
    left.mkdir()
    (left / "theta-9.safetensors").write_bytes(b"half")
    disk.clear_torn(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file_and_nothing_half_written(tmp_path, monkeypatch):
    write_tensors(tmp_path / "w", {"w": torch.ones(3)}, {})

    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk.os, "fsync", full)
    with pytest.raises(RunError, match="is full. What is saved is safe"):
        write_tensors(tmp_path / "w", {"w": torch.zeros(3)}, {})
    assert torch.equal(read_tensors(tmp_path / "w")[0]["w"], torch.ones(3))
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_what_safetensors_says_of_the_disk_is_told_in_words(tmp_path, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(RunError, match="is full. What is saved is safe"):
        write_tensors(tmp_path / "w", {"w": torch.zeros(3)}, {})
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_holds_nothing_twice(tmp_path):
    theta = {name: torch.nn.Parameter(torch.randn(500, 500)) for name in "abcd"}  # 1 MB each
    optimizer = torch.optim.Adam(list(theta.values()), fused=True)
    for tensor in theta.values():
        tensor.grad = torch.ones_like(tensor)
    optimizer.step()
    moments = [value for state in optimizer.state.values() for value in state.values()]
    tracemalloc.start()
    try:
        with Live([*theta.values(), *moments]) as live:
            checkpoint.save_checkpoint(Run(tmp_path), 1, "abc", theta, optimizer, {})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(path.stat().st_size for path in tmp_path.rglob("theta-*")) > 12_000_000
    assert live.peak < 100_000 and peak < 2_000_000
