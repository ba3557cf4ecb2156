"""KPOP Studio: starts the page. `python app.py --help` lists the flags."""

from __future__ import annotations

import argparse
import getpass
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


class Refused(Exception):
    """A flag that cannot be used; its text tells what to do."""


class Parser(argparse.ArgumentParser):
    """argparse whose complaint is one line."""

    def error(self, message: str):
        print(f"{self.prog}: {message}. See {self.prog} --help.", file=sys.stderr)
        raise SystemExit(2)


def read_flags(words: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked as far as one can without loading anything."""
    parser = Parser(prog="app.py", description="KPOP Studio: make an image model forget, and keep the key.")
    parser.add_argument(
        "--model", default="emoji", help="emoji, a model of the table, or a local diffusers folder"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; another one needs a login")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument(
        "--runs", type=Path, help="folder of the runs (default: KPOP_RUNS or the user's data folder)"
    )
    parser.add_argument("--share", action="store_true", help="public gradio link; needs a login")
    parser.add_argument(
        "--auth",
        metavar="USER",
        help="login of the page; its password is asked for, or comes from KPOP_AUTH=USER:PASS",
    )
    parser.add_argument("--read-only", action="store_true", help="show finished runs, start none")
    parser.add_argument(
        "--runner", choices=("local", "ray"), default="local", help="train here, or on a Ray cluster"
    )
    flags = parser.parse_args(words)
    if not 1 <= flags.port <= 65535:
        raise Refused("--port must be between 1 and 65535.")
    if flags.device not in ("auto", "cpu", "cuda", "mps") and not flags.device.startswith("cuda:"):
        raise Refused("--device must be auto, cpu, cuda or mps.")
    return flags


def exposure_from(flags: argparse.Namespace):
    """kpop.exposure.Exposure of the flags and variables; the passwords are taken out of the environment.

    Trainings are processes of their own and need to know none of them. Raises InputError.
    """
    from kpop.exposure import exposure_of

    ask = getpass.getpass if sys.stdin and sys.stdin.isatty() else None
    found = exposure_of(flags.host, flags.share, flags.auth, flags.read_only, os.environ, ask)
    for name in ("KPOP_AUTH", "KPOP_FACILITATOR"):
        os.environ.pop(name, None)
    return found


def check_port(host: str, port: int) -> None:
    """Raise Refused when the port is taken or the address is not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError:
            raise Refused(f"Port {port} needs more rights. Choose one above 1023: --port 7860.") from None
        except socket.gaierror:
            raise Refused(f"--host {host} is not an address. Use 127.0.0.1, or 0.0.0.0 for all.") from None
        except OSError as error:
            if error.errno == 98 or "in use" in str(error).lower():
                raise Refused(
                    f"Port {port} is in use. Choose another one: --port {min(port + 1, 65535)}."
                ) from None
            raise Refused(f"Cannot listen on {host}: {error.strerror}. Use --host 127.0.0.1.") from None


def check_runs(folder: Path) -> Path:
    """The runs folder, made and tried by writing a file. Raises Refused."""
    folder = folder.expanduser().resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".try"):
            pass
    except OSError as error:
        raise Refused(
            f"The runs folder {folder} cannot be written ({error.strerror}). Choose another one: --runs DIR."
        ) from None
    return folder


def tell(demo, exposure, address: str) -> None:
    """Print what the person who started the app has to know: who reaches it, and with which logins."""
    from kpop.address import others_address, qr_text
    from kpop.ui.tunnel import open_tunnel

    print(exposure.why)
    for warning in exposure.warnings:
        print(warning, file=sys.stderr)
    if exposure.public and open_tunnel(demo) is None:
        print(f"The public link could not be opened: check the network. The app goes on at {address}.")
    for login, whose in ((exposure.login, "everybody"), (exposure.facilitator, "you, who see all runs")):
        if login and login.made_up:
            print(f"Login for {whose}: {login.user}  password: {login.password}")
    others = others_address(exposure, demo.server_name, demo.server_port, demo.share_url, os.environ)
    if others:
        print(f"Others reach it at {others}")
        if (sys.stdout.encoding or "").lower().startswith("utf"):
            print(qr_text(others))


def main(words: list[str] | None = None) -> int:
    """Run the app until it is stopped; 0 on Ctrl-C, 2 on anything that cannot be used."""
    from kpop.address import local_address
    from kpop.errors import KpopError

    began = time.monotonic()
    try:
        flags = read_flags(words)
        exposure = exposure_from(flags)
        check_port(flags.host, flags.port)
        from kpop import runs

        folder = check_runs(flags.runs or Path(runs.default_runs_dir()))
        if flags.runner == "ray" and not exposure.read_only:
            from kpop.ray_runner import check_cluster

            check_cluster()
        from kpop.ui.app import build_ui, launch_options, start_watching

        demo = build_ui(folder, flags.model, flags.device, exposure, flags.runner)
        options = launch_options(folder, exposure)
    except (Refused, KpopError) as error:
        print(f"app.py: {error}", file=sys.stderr)
        return 2
    watcher = None if exposure.read_only else start_watching(folder, flags.runner)
    try:
        demo.launch(
            server_name=flags.host,
            server_port=flags.port,
            prevent_thread_lock=True,
            **options,
        )
    except OSError as error:
        print(
            f"app.py: the page could not be opened on {flags.host}:{flags.port} ({error}).", file=sys.stderr
        )
        return 2
    address = local_address(flags.host, flags.port)
    print(f"KPOP Studio is ready on {address} ({time.monotonic() - began:.0f} s)", flush=True)
    tell(demo, exposure, address)
    print(f"Runs: {folder}    Stop with Ctrl-C; runs in the background go on.", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    try:
        demo.block_thread()
    except KeyboardInterrupt:
        pass
    finally:
        if watcher:
            watcher.stop()
        demo.close(verbose=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
