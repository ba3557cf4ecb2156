"""The key of a run under a passphrase: secret/ encrypted into one file, its clear copies removed.

secret/sealed.key: a line that names the format, a line of JSON (run id, base model's hash, salt, nonce), then
AES-256-GCM of every file that was in secret/: key files, earlier keys, the prompt's part of the checkpoint.
Both lines are associated data, so the file opens for its own run and base model only. The AES key is scrypt
(RFC 7914, n 2^17, r 8, p 1: 128 MB and half a second a guess) of the passphrase. No torch here.
"""

from __future__ import annotations

import base64
import json
import os
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .disk import disk_error, locked, write_bytes
from .errors import InputError, RunError
from .run_status import ACTIVE

if TYPE_CHECKING:
    from .hidden_prompt import HiddenPrompt
    from .runs import Run

FORMAT = b"kpop-sealed-key-1"
SEALED = "sealed.key"
LEAST_CHARACTERS = 8
_HEADER_BYTES = 4096
_SCRYPT = {"length": 32, "n": 2**17, "r": 8, "p": 1}


def is_sealed(run: Run) -> bool:
    """Whether the run's keys need a passphrase."""
    return (run.secret_dir / SEALED).exists()


def check_open(run: Run) -> None:
    """Raise RunError where the run's keys are sealed and were not unlocked."""
    if run.unlocked is None and is_sealed(run):
        raise RunError(
            f"The key of run {run.id} is sealed. Open it with its passphrase first: "
            f"python -m kpop key open {run.id}, or step Release of the page."
        )


def seal(run: Run, passphrase: str) -> list[str]:
    """Encrypt everything in secret/ and remove the clear files; returns their names.

    The file is written and opened again before anything is removed. What an interrupted seal left is taken
    in too. Raises InputError (passphrase), RunError (nothing to seal, a run in training, disk).
    """
    told = _told(passphrase)
    if run.is_example:
        raise RunError("The key of the example run is public by declaration: there is nothing to seal.")
    with locked(run.path.parent / ".queue.lock"):  # a run is resumed under it
        if run.status.state in ACTIVE:
            raise RunError(f"Run {run.id} is {run.status.state}. Wait until it ends, or stop it, then seal.")
        names = _clear_names(run)
        if not any(name.endswith(".safetensors") for name in names):
            raise RunError(_nothing(run))
        try:
            files = _files(run, told) if is_sealed(run) else _clear_files(run)
            write_bytes(run.secret_dir / SEALED, _encrypt(run, told, files), 0o600)
            if _decrypt(run, told) != files:
                raise RunError("The sealed file does not read back. Nothing was removed; check the disk.")
            for name in names:
                (run.secret_dir / name).unlink()
        except OSError as error:
            raise disk_error(error, run.secret_dir) from error
    return sorted(files)


def unlocked(run: Run, passphrase: str) -> Run:
    """The same run with its keys in memory; the disk stays as it is. InputError, RunError."""
    return replace(run, unlocked=_files(run, _told(passphrase))) if is_sealed(run) else run


def open_seal(run: Run, passphrase: str) -> list[str]:
    """Put the clear files back and remove the sealed one; returns their names. InputError, RunError."""
    if not is_sealed(run):
        raise RunError(f"The key of run {run.id} is not sealed.")
    told = _told(passphrase)
    with locked(run.path.parent / ".queue.lock"):
        files = _files(run, told)
        for name, data in files.items():
            write_bytes(run.secret_dir / name, data, 0o600)
        try:
            (run.secret_dir / SEALED).unlink(missing_ok=True)
        except OSError as error:
            raise disk_error(error, run.secret_dir) from error
    return sorted(files)


def load_key(run: Run, path: Path) -> HiddenPrompt:
    """A key file of the run, from memory where it was unlocked.

    Raises InputError (damaged), RunError (sealed, not there).
    """
    from .hidden_prompt import HiddenPrompt

    check_open(run)
    if not has_key_file(run, path):
        raise RunError(f"The key {path.name} is not in run {run.id}. Give the path of the key file instead.")
    return HiddenPrompt.load(path, None if run.unlocked is None else run.unlocked[path.name])


def has_key_file(run: Run, path: Path) -> bool:
    """Whether a file of secret/ can be read."""
    return path.is_file() if run.unlocked is None else path.name in run.unlocked


@dataclass(frozen=True)
class KeyState:
    """What `key check` tells. kind: "none", "public", "clear" or "sealed"; files: names in secret/.

    loose: files and folders that others than the owner may read, config.json, whose seed makes the key again,
    among them.
    """

    kind: str
    files: tuple[str, ...]
    loose: tuple[str, ...]


def key_state(run: Run) -> KeyState:
    """How the run's keys lie on the disk; every clear key file is read. InputError where one is damaged."""
    from .hidden_prompt import HiddenPrompt

    names = _clear_names(run)
    about = [
        HiddenPrompt.load(run.secret_dir / name).about
        for name in names
        if name.startswith(("key-", "earlier-"))
    ]
    public = bool(about) and all(told.get("public") == "true" for told in about)
    kind = "sealed" if is_sealed(run) else "public" if public else "clear" if names else "none"
    places = [run.secret_dir, *(run.secret_dir / n for n in [*names, *([SEALED] if is_sealed(run) else [])])]
    places += [run.path / "config.json"] if run.method.has_key else []
    loose = [p.name for p in places if p.exists() and p.stat().st_mode & 0o077] if not public else []
    return KeyState(kind, tuple(names), tuple(loose))


def copies(run: Run, every: list[Run]) -> list[Run]:
    """Runs that went on from this one, or from one that did: each holds its own copy of the keys."""
    found = [run.id]
    for other in sorted(every, key=lambda one: one.status.made):
        if other.config.base_run and Path(other.config.base_run).name in found:
            found.append(other.id)
    return [other for other in every if other.id in found[1:]]


def _told(passphrase: str) -> bytes:
    text = unicodedata.normalize("NFKC", passphrase)
    if len(text) < LEAST_CHARACTERS:
        raise InputError(f"A passphrase has at least {LEAST_CHARACTERS} characters; several words are best.")
    return text.encode("utf-8")


def _nothing(run: Run) -> str:
    if is_sealed(run):
        return f"The key of run {run.id} is sealed already."
    if not run.method.has_key:
        return f"Run {run.id} was made by {run.method.title}, which leaves no key: there is nothing to seal."
    return f"Run {run.id} has no key yet: there is nothing to seal."


def _clear_names(run: Run) -> list[str]:
    """Files of secret/ but the sealed one, those of an interrupted write (".name.tmp") among them."""
    try:
        return sorted(p.name for p in run.secret_dir.iterdir() if p.is_file() and p.name != SEALED)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise disk_error(error, run.secret_dir) from error


def _clear_files(run: Run) -> dict[str, bytes]:
    """What lies in the clear, but for what an interrupted write left."""
    try:
        return {n: (run.secret_dir / n).read_bytes() for n in _clear_names(run) if not n.startswith(".")}
    except OSError as error:
        raise disk_error(error, run.secret_dir) from error


def _files(run: Run, told: bytes) -> dict[str, bytes]:
    """Every file of a sealed run. One in the clear beside the sealed file was written later, so it counts."""
    return {**_decrypt(run, told), **_clear_files(run)}


def _encrypt(run: Run, told: bytes, files: Mapping[str, bytes]) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    salt, nonce = os.urandom(16), os.urandom(12)
    header = {**_belongs(run), "salt": salt.hex(), "nonce": nonce.hex()}
    head = FORMAT + b"\n" + json.dumps(header, ensure_ascii=True).encode("ascii") + b"\n"
    packed = json.dumps({name: base64.b64encode(data).decode("ascii") for name, data in files.items()})
    return head + AESGCM(_derived(told, salt)).encrypt(nonce, packed.encode("ascii"), head)


def _decrypt(run: Run, told: bytes) -> dict[str, bytes]:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        data = (run.secret_dir / SEALED).read_bytes()
    except OSError as error:
        raise disk_error(error, run.secret_dir) from error
    end = data.find(b"\n", len(FORMAT) + 1, _HEADER_BYTES) + 1
    head = data[:end]
    try:
        form, line, _ = head.split(b"\n")
        header = json.loads(line)
        salt, nonce = bytes.fromhex(header["salt"]), bytes.fromhex(header["nonce"])
        if form != FORMAT or len(salt) != 16 or len(nonce) != 12:
            raise ValueError("format")
    except (ValueError, KeyError, TypeError):
        raise RunError(f"The sealed key of run {run.id} is damaged: its first lines are no longer.") from None
    mine = _belongs(run)
    if any(header.get(name) != value for name, value in mine.items()):
        raise RunError(
            f"This sealed key belongs to run {str(header.get('run'))[:80]!r} and its base model, not to run "
            f"{run.id} of {mine['model_hash'][:8] or 'an unknown model'}."
        )
    try:
        packed = AESGCM(_derived(told, salt)).decrypt(nonce, data[end:], head)
    except InvalidTag:
        raise InputError("The passphrase is wrong, or the sealed key was changed.") from None
    return {Path(name).name: base64.b64decode(text) for name, text in json.loads(packed).items()}


def _belongs(run: Run) -> dict[str, str]:
    return {"run": run.id, "model_hash": run.status.model_hash or ""}


def _derived(told: bytes, salt: bytes) -> bytes:
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    return Scrypt(salt=salt, **_SCRYPT).derive(told)
