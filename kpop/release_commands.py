"""What `release` and `key seal|open|check` do, and where a command finds a passphrase."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from pathlib import Path

from . import key_sealing, runs
from .errors import InputError
from .run_commands import named_run, runs_dir
from .runs import Run

VARIABLE = "KPOP_PASSPHRASE"


def release(args: argparse.Namespace) -> None:
    """The sanitized model in --out; paths on stdout. With --push, what would be sent, or with --really is."""
    from .release import check_run, push, seed_warning
    from .release import release as make

    run = named_run(args)
    check_run(run)
    run = unlocked(run, args)
    made = make(
        run, args.out, args.form, args.evaluation,
        on_part=lambda words: print(f"{words} ...", file=sys.stderr), runs_dir=runs_dir(args),
    )  # fmt: skip
    for path in made.files:
        print(path)
    if warning := seed_warning(run):
        print(warning, file=sys.stderr)
    if args.form == "all" and "single-file" not in made.forms:
        print(
            "Left out: single-file, which only models of Stable Diffusion 1's shape can be.", file=sys.stderr
        )
    if args.push:
        files = push(made, run, args.push, args.really)
        if not args.really:
            for name, size in files:
                print(f"{size:>14,} bytes  {name}", file=sys.stderr)
        total = sum(size for _, size in files)
        end = "Sent to" if args.really else "Nothing was sent. With --really this goes to"
        print(f"{end} {args.push} (private where it is new): {total:,} bytes.", file=sys.stderr)


def key_seal(args: argparse.Namespace) -> None:
    """Encrypt the keys; names what else holds a copy."""
    run = named_run(args)
    names = key_sealing.seal(run, passphrase(args, twice=not key_sealing.is_sealed(run)))
    print(
        f"{run.id}: sealed {len(names)} file{'' if len(names) == 1 else 's'}; their clear copies are removed"
    )
    for other in key_sealing.copies(run, runs.list_runs(run.path.parent)):
        if not key_sealing.is_sealed(other):
            print(f"{other.id} went on from it and holds a copy of its key: seal it too.", file=sys.stderr)


def key_open(args: argparse.Namespace) -> None:
    """Put the clear files back."""
    run = named_run(args)
    if not key_sealing.is_sealed(run):
        raise InputError(f"The key of run {run.id} is not sealed.")
    names = key_sealing.open_seal(run, passphrase(args))
    print(f"{run.id}: open, {len(names)} file{'' if len(names) == 1 else 's'} in {run.secret_dir}")


def key_check(args: argparse.Namespace) -> None:
    """Say how the keys lie, try the passphrase where one is given, and search --release for them."""
    run = named_run(args)
    state = key_sealing.key_state(run)
    print(f"{run.id}: {_KINDS[state.kind]}")
    if state.kind == "sealed" and (_given(args) is not None or sys.stdin.isatty()):
        run = unlocked(run, args)
        print(f"The passphrase opens it: {', '.join(sorted(run.unlocked))}")
    if state.kind == "sealed" and state.files:
        print(f"Beside it lie clear files: {', '.join(state.files)}. Seal again.", file=sys.stderr)
    if state.loose:
        print(
            f"Others on this machine can read: {', '.join(state.loose)}. Use chmod go-rwx.", file=sys.stderr
        )
    if args.release:
        from .key_scan import check_release

        folder = Path(args.release).expanduser()
        if not folder.is_dir():
            raise InputError(f"There is no folder {args.release[-80:]!r}.")
        check_release(folder, run)
        print(f"No piece of the key is in {folder}")


_KINDS = {
    "none": "no key",
    "clear": "its key lies in secret/ in the clear, readable by you alone",
    "sealed": "its key is sealed with a passphrase",
    "public": "its key is public by declaration",
}


def unlocked(run: Run, args: argparse.Namespace) -> Run:
    """The run, with its keys in memory where they are sealed: then the passphrase is asked for once."""
    if run.unlocked is not None or not key_sealing.is_sealed(run):
        return run
    return key_sealing.unlocked(run, passphrase(args))


def for_key(run: Run | None, args: argparse.Namespace) -> Run | None:
    """`unlocked`, where the command's --key asks for a key of the run."""
    own = run is not None and run.method.has_key and getattr(args, "variant", "recovered") == "recovered"
    elsewhere = args.key.lower() == "none" or args.key.endswith(".safetensors") or os.sep in args.key
    drawn = not getattr(args, "images", None)  # else made before
    return unlocked(run, args) if own and drawn and not elsewhere else run


def passphrase(args: argparse.Namespace, twice: bool = False) -> str:
    """From --passphrase-file, KPOP_PASSPHRASE, or typed unseen; never from a flag, which all can read.

    twice: ask again, to catch a slip. Raises InputError.
    """
    given = _given(args)
    if given is not None:
        return given
    if not sys.stdin.isatty():
        raise InputError(
            "The passphrase of this key is needed: give --passphrase-file FILE, or set KPOP_PASSPHRASE."
        )
    typed = getpass.getpass("Passphrase: ")
    if twice and getpass.getpass("Again: ") != typed:
        raise InputError("The two differ. Nothing was changed.")
    return typed


def _given(args: argparse.Namespace) -> str | None:
    if args.passphrase_file is None:
        return os.environ.get(VARIABLE) or None
    try:
        return Path(args.passphrase_file).expanduser().read_text("utf-8").rstrip("\r\n")
    except (OSError, ValueError) as error:
        raise InputError(f"The passphrase file cannot be read ({type(error).__name__}).") from error
