"""The search for pieces of a key in the files of a release."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from kpop import RunError, cli, open_run, train
from kpop.key_scan import check_release, find_key, fingerprints, secret_tensors
from kpop.release import release


@pytest.fixture(scope="module")
def run(tiny_config, tiny_pipe, tmp_path_factory):
    return train(tiny_config(), tmp_path_factory.mktemp("runs"), pipe=tiny_pipe)


@pytest.mark.parametrize("mechanism", ["additive", "token", "amortized"])
def test_no_mechanism_leaves_its_key_in_a_release(mechanism, tiny_config, tiny_pipe, tmp_path):
    run = train(tiny_config(mechanism=mechanism, steps=2), tmp_path / "runs", pipe=tiny_pipe)
    made = release(run, tmp_path / "out", "all")
    prints = fingerprints(secret_tensors(run))
    assert find_key(made.path, prints) == []
    assert {path.parent.name for path in find_key(run.path, prints)} == {"secret"}


@pytest.mark.parametrize(
    "piece",
    [
        lambda p: p,
        lambda p: p.half(),
        lambda p: p.bfloat16(),
        lambda p: p.half().float(),
        lambda p: p.double(),
        lambda p: p[:, 30:31, 8:24],
        lambda p: p[:, :, 5].clone(),
        lambda p: p.transpose(1, 2).bfloat16(),
        lambda p: torch.cat([torch.randn(1, 77, 32), p.half().float()], 2),
    ],
    ids=["whole", "half", "bfloat16", "half as float", "double", "a row", "a column", "turned", "beside"],
)
def test_a_piece_of_the_key_is_found_under_any_name(piece, run, tmp_path):
    p = load_file(run.key_path("church"))["p"]
    save_file({"bias": torch.randn(333), "w": piece(p).contiguous()}, tmp_path / "x.safetensors")
    save_file({"w": torch.randn(1, 77, 32), "zero": torch.zeros(4096)}, tmp_path / "y.safetensors")
    (tmp_path / "z.txt").write_bytes(b"..." + piece(p).contiguous().view(torch.uint8).numpy().tobytes())
    found = find_key(tmp_path, fingerprints(secret_tensors(run)))
    assert [path.name for path in found] == ["x.safetensors", "z.txt"]


def test_a_release_that_holds_a_key_or_a_foreign_file_never_appears(run, tmp_path, monkeypatch):
    from kpop import release as module

    own = module._write_forms

    def careless(made, *rest):
        shutil.copy(run.key_path("church"), made / "embedding.safetensors")
        return own(made, *rest)

    monkeypatch.setattr(module, "_write_forms", careless)
    with pytest.raises(RunError, match="is in embedding.safetensors: this must not be released"):
        release(run, tmp_path / "out", "delta")

    def pickled(made, *rest):
        (made / "weights.bin").write_bytes(b"x")
        return own(made, *rest)

    monkeypatch.setattr(module, "_write_forms", pickled)
    with pytest.raises(RunError, match="weights.bin does not belong into a release"):
        release(run, tmp_path / "out", "delta")
    assert list(tmp_path.iterdir()) == []


def test_a_piece_at_any_byte_of_a_safetensors_file_is_found(run, tmp_path):
    """Where values do not lie at multiples of their size: another library's header, or a tensor of bytes."""
    (tmp_path / "out").mkdir()
    data = load_file(run.key_path("church"))["p"].half().view(torch.uint8).flatten()
    save_file({"w": torch.cat([torch.zeros(1, dtype=torch.uint8), data])}, tmp_path / "out" / "x.safetensors")
    assert find_key(tmp_path, fingerprints(secret_tensors(run))) == []
    with pytest.raises(RunError, match="is in x.safetensors: this must not be released"):
        check_release(tmp_path / "out", run)


def test_a_search_without_a_key_to_search_for_is_no_all_clear(run, tmp_path, capsys):
    torn = open_run(shutil.copytree(run.path, tmp_path / run.id))
    out = release(run, tmp_path / "out", "delta").path
    assert cli.main(["key", "check", str(torn.path), "--release", str(out)]) == 0
    assert "No piece of the key is in" in capsys.readouterr().out
    torn.key_path("church").unlink()
    assert cli.main(["key", "check", str(torn.path), "--release", str(out)]) == 2
    told = capsys.readouterr()
    assert "No piece" not in told.out and "nothing can be searched for it" in told.err
    with pytest.raises(RunError, match="The key key-00-church.safetensors .* is not in its secret folder"):
        release(torn, tmp_path / "other", "delta")
    assert not (tmp_path / "other").exists()
