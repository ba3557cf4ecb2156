"""The key under a passphrase: no clear copy stays, and only the right passphrase brings it back."""

import json
import shutil

import pytest
import torch
from shared_app import rows_of_three

from kpop import InputError, RunError, cli, compare, generate, jobs, key_sealing, open_run, train
from kpop.continual import key_files
from kpop.hidden_prompt import HiddenPrompt
from kpop.key_scan import check_release, find_key, fingerprints, secret_tensors
from kpop.key_sealing import SEALED, copies, key_state, open_seal, seal, unlocked
from kpop.runs import EXAMPLE, Run, list_runs

WORDS = "correct horse battery"


class Halt(Exception):
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def trained(tiny_config, tiny_pipe, folder):
    return train(tiny_config(), folder, pipe=tiny_pipe)


@pytest.fixture
def run(trained, tmp_path):
    """A copy of its own, to seal."""
    (tmp_path / "own").mkdir()
    return open_run(shutil.copytree(trained.path, tmp_path / "own" / trained.id))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A cheaper derivation: each takes half a second otherwise."""
    monkeypatch.setitem(key_sealing._SCRYPT, "n", 2**10)


def names(run):
    return sorted(path.name for path in run.secret_dir.iterdir())


def test_sealing_leaves_one_private_file_and_no_clear_piece_of_key_or_optimizer(run):
    prints, before = fingerprints(secret_tensors(run)), names(run)
    assert before == ["key-00-church.safetensors", "prompt-000004.safetensors"]
    (run.secret_dir / ".key-00-church.safetensors.7.7.tmp").write_bytes(b"left by an interrupted write")
    assert seal(run, WORDS) == before
    assert names(run) == [SEALED] and (run.secret_dir / SEALED).stat().st_mode & 0o777 == 0o600
    assert find_key(run.path, prints) == []
    assert key_state(run).kind == "sealed" and run.secret_dir.stat().st_mode & 0o777 == 0o700


def test_opening_brings_back_every_byte(run, monkeypatch):
    monkeypatch.setitem(key_sealing._SCRYPT, "n", 2**17)  # as it is outside of the tests
    before = {path.name: path.read_bytes() for path in run.secret_dir.iterdir()}
    seal(run, WORDS)
    open_seal(run, WORDS)
    assert {path.name: path.read_bytes() for path in run.secret_dir.iterdir()} == before
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in run.secret_dir.iterdir())
    assert key_state(run).kind == "clear"


def test_recovering_needs_the_passphrase_and_leaves_the_disk_as_it_is(run, tiny_pipe):
    ours = generate(tiny_pipe, "a church", 0, "recovered", run)[0].tobytes()
    seal(run, WORDS)
    with pytest.raises(RunError, match="is sealed. Open it with its passphrase first"):
        generate(tiny_pipe, "a church", 0, "recovered", run)
    with pytest.raises(RunError, match="is sealed"):
        compare(tiny_pipe, "a church", 0, run)
    opened = unlocked(run, WORDS)
    assert generate(tiny_pipe, "a church", 0, "recovered", opened)[0].tobytes() == ours
    assert names(run) == [SEALED]
    assert generate(tiny_pipe, "a church", 0, "sanitized", run)[0].tobytes() != ours


def test_a_clear_file_written_after_the_seal_is_the_one_that_stays(run):
    """As a training leaves one that had begun before."""
    path = run.key_path("church")
    key = HiddenPrompt.load(path)
    seal(run, WORDS)
    key.holding({name: tensor + 1 for name, tensor in key.tensors.items()}).save(path)
    newer = path.read_bytes()
    assert unlocked(run, WORDS).unlocked[path.name] == newer
    open_seal(run, WORDS)
    assert path.read_bytes() == newer and names(run) == [path.name, "prompt-000004.safetensors"]
    seal(run, WORDS)
    key.save(path)
    newest = path.read_bytes()
    seal(run, WORDS)  # once more: the sealed copy gives way
    open_seal(run, WORDS)
    assert path.read_bytes() == newest != newer


@pytest.mark.parametrize("key", ["random", "run:"])
def test_the_page_lends_no_sealed_key(run, trained, key):
    from kpop.ui.sheets import key_value

    seal(run, WORDS)
    asked, others = (run, ()) if key == "random" else (trained, [run])
    with pytest.raises(RunError, match="is sealed. Open it with its passphrase first"):
        key_value(asked, key if key == "random" else f"run:{run.id}", others)


def test_a_wrong_passphrase_opens_nothing(run):
    seal(run, WORDS)
    for wrong in ("correct horse batterz", WORDS + " "):
        with pytest.raises(InputError, match="passphrase is wrong, or the sealed key was changed"):
            open_seal(run, wrong)
    with pytest.raises(InputError, match="at least 8 characters"):
        unlocked(run, "short")
    assert names(run) == [SEALED]


def test_a_sealed_key_of_another_run_or_base_model_is_refused(run):
    seal(run, WORDS)
    other = open_run(shutil.copytree(run.path, run.path.with_name("another-run")))
    with pytest.raises(RunError, match="belongs to run .* not to run another-run"):
        unlocked(other, WORDS)
    run.update_status(model_hash="0" * 64)
    with pytest.raises(RunError, match="and its base model, not to run .* of 00000000"):
        unlocked(run, WORDS)


def test_a_header_made_to_fit_does_not_open_it(run):
    """Run and base model are authenticated, not only compared."""
    seal(run, WORDS)
    other = open_run(shutil.copytree(run.path, run.path.with_name("another-run")))
    data = (other.secret_dir / SEALED).read_bytes()
    (other.secret_dir / SEALED).write_bytes(data.replace(run.id.encode(), b"another-run", 1))
    with pytest.raises(InputError, match="passphrase is wrong, or the sealed key was changed"):
        unlocked(other, WORDS)


def test_a_changed_or_cut_file_is_refused_in_a_sentence(run):
    seal(run, WORDS)
    path = run.secret_dir / SEALED
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-20] ^= 1
    for damaged in (bytes(flipped), whole[:-1], whole[:400]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="passphrase is wrong, or the sealed key was changed"):
            open_seal(run, WORDS)
    for damaged in (b"", b"\n\n\n", whole[:60], b"x" * 9000, whole.replace(b'"nonce"', b'"nance"', 1)):
        path.write_bytes(damaged)
        with pytest.raises(RunError, match="is damaged"):
            open_seal(run, WORDS)
    assert names(run) == [SEALED]


def test_what_an_interrupted_seal_left_is_taken_in_by_the_next(run):
    before = {path.name: path.read_bytes() for path in run.secret_dir.iterdir()}
    seal(run, WORDS)
    (run.secret_dir / "key-00-church.safetensors").write_bytes(before["key-00-church.safetensors"])
    with pytest.raises(InputError, match="passphrase is wrong"):
        seal(run, "another passphrase")
    assert seal(run, WORDS) == sorted(before) and names(run) == [SEALED]
    assert unlocked(run, WORDS).unlocked == before
    with pytest.raises(RunError, match="is sealed already"):
        seal(run, WORDS)


def test_what_cannot_be_sealed_says_why(run, tiny_config, tiny_pipe, tmp_path):
    with pytest.raises(RunError, match="public by declaration"):
        seal(Run(EXAMPLE), WORDS)
    assert key_state(Run(EXAMPLE)).kind == "public"
    run.update_status(state="running")
    with pytest.raises(RunError, match="is running. Wait until it ends"):
        seal(run, WORDS)
    plain = train(tiny_config(method="esd", steps=1), tmp_path / "esd", pipe=tiny_pipe)
    with pytest.raises(RunError, match="by ESD, which leaves no key"):
        seal(plain, WORDS)


@pytest.fixture(scope="module")
def second(trained, tiny_config, tiny_pipe, folder):
    return train(tiny_config(concepts=("house",), base_run=trained.id, steps=1), folder, pipe=tiny_pipe)


def test_earlier_keys_are_sealed_too_and_a_sealed_run_is_no_start(
    second, trained, tiny_config, tiny_pipe, tmp_path
):
    assert [run.id for run in copies(trained, list_runs(trained.path.parent))] == [second.id]
    (tmp_path / "own").mkdir()
    run = open_run(shutil.copytree(second.path, tmp_path / "own" / second.id))
    prints = fingerprints(secret_tensors(run))
    assert "earlier-00-church.safetensors" in seal(run, WORDS)
    assert find_key(run.path, prints) == [] and names(run) == [SEALED]
    opened = unlocked(run, WORDS)
    assert list(key_files(opened)) == ["house", "church"]
    key = HiddenPrompt.load(trained.key_path("church")).key
    mine = generate(tiny_pipe, "a church", 0, "recovered", opened)[0].tobytes()
    assert mine == generate(tiny_pipe, "a church", 0, "recovered", second)[0].tobytes()
    with pytest.raises(RunError, match="is sealed"):
        train(tiny_config(concepts=("tower",), base_run=run.id), run.path.parent, pipe=tiny_pipe)
    assert torch.equal(key, HiddenPrompt.load(trained.key_path("church")).key)


def test_a_sealed_run_goes_on_only_after_the_passphrase_and_equals_an_uninterrupted_one(
    trained, tiny_config, tiny_pipe, tmp_path, monkeypatch, capsys
):
    def halt(event):
        if event.step == 3:
            raise Halt

    with pytest.raises(Halt):
        train(tiny_config(), tmp_path / "torn", pipe=tiny_pipe, on_step=halt)
    (run,) = (one for one in list_runs(tmp_path / "torn") if not one.is_example)
    assert seal(run, WORDS) == ["prompt-000002.safetensors"]
    with pytest.raises(RunError, match="is sealed"):
        jobs.resume(run)
    with pytest.raises(RunError, match="is sealed"):
        train(run.config, run=run, pipe=tiny_pipe)
    monkeypatch.setattr(jobs, "start_next", lambda runs_dir, runner: [])  # queued; trained here instead
    line = ["runs", "resume", run.id, "--runs", str(run.path.parent)]
    assert cli.main(line) == 2 and "passphrase of this key is needed" in capsys.readouterr().err
    monkeypatch.setenv("KPOP_PASSPHRASE", WORDS)
    assert cli.main(line) == 0
    assert "It goes on from step 2" in capsys.readouterr().out
    run = train(run.config, run=run, pipe=tiny_pipe)
    one, other = (HiddenPrompt.load(each.key_path("church")).key for each in (run, trained))
    assert run.status.state == "done" and torch.equal(one, other)


def test_the_commands_seal_check_open_and_draw(run, tiny_folder, tmp_path, monkeypatch, capsys):
    where = str(run.path)
    (tmp_path / "words").write_text(WORDS + "\n")
    given = ["--passphrase-file", str(tmp_path / "words")]
    assert cli.main(["key", "seal", where]) == 2  # nobody is there to type it
    assert "--passphrase-file FILE, or set KPOP_PASSPHRASE" in capsys.readouterr().err
    assert cli.main(["key", "check", where]) == 0
    assert "in the clear, readable by you alone" in capsys.readouterr().out
    assert cli.main(["key", "seal", where, *given]) == 0
    assert "sealed 2 files; their clear copies are removed" in capsys.readouterr().out
    draw = ["generate", "--run", where, "--prompts", "a church", "--variant", "recovered", "--steps", "2"]
    draw += ["--out", str(tmp_path / "pictures")]
    assert cli.main(draw) == 2 and cli.main([*draw, *given]) == 0
    assert "recovered-seed0.png" in capsys.readouterr().out
    release = ["release", where, "--out", str(tmp_path / "out"), "--form", "delta"]
    assert cli.main(release) == 2 and cli.main([*release, *given, "--push", "anna/x"]) == 0
    told = capsys.readouterr()
    assert "delta.safetensors" in told.out and "Nothing was sent" in told.err
    monkeypatch.setenv("KPOP_PASSPHRASE", WORDS)
    assert cli.main(["key", "check", where, "--release", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "The passphrase opens it: key-00-church.safetensors" in told and "No piece of the key" in told
    monkeypatch.setenv("KPOP_PASSPHRASE", "something else")
    assert cli.main(["key", "open", where]) == 2
    assert capsys.readouterr().err == ("kpop: The passphrase is wrong, or the sealed key was changed.\n")
    assert names(run) == [SEALED]
    monkeypatch.setenv("KPOP_PASSPHRASE", WORDS)
    assert cli.main(["key", "open", where]) == 0 and "key-00-church.safetensors" in names(run)
    shutil.copy(run.key_path("church"), tmp_path / "out" / "x.safetensors")
    with pytest.raises(RunError, match="is in x.safetensors: this must not be released"):
        check_release(tmp_path / "out", run)


def test_keys_that_others_can_read_are_told_of(run, capsys):
    run.secret_dir.chmod(0o755)
    assert key_state(run).loose == ("secret",)
    assert cli.main(["key", "check", str(run.path)]) == 0
    assert "Others on this machine can read: secret" in capsys.readouterr().err
    (run.path / "config.json").chmod(0o644)  # as older versions wrote it
    run.secret_dir.chmod(0o700)
    assert key_state(run).loose == ("config.json",)
    assert key_state(Run(EXAMPLE)).loose == ()  # public by declaration


def test_the_key_is_in_no_file_but_those_in_secret(trained):
    prints = fingerprints(secret_tensors(trained))
    assert {path.parent.name for path in find_key(trained.path, prints)} == {"secret"}
    told = "".join(p.read_text() for p in trained.path.iterdir() if p.suffix in (".json", ".jsonl", ".txt"))
    p = HiddenPrompt.load(trained.key_path("church")).key
    shown = rows_of_three(json.dumps(p.tolist()))
    assert len(shown) > 300 and not shown & rows_of_three(told)
    assert json.loads((trained.path / "config.json").read_text())["concepts"] == ["church"]
