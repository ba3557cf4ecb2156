"""The Dockerfile's steps without a Docker engine: read from it, and done one by one in a fresh Debian.

sudo python3 -m faults.chroot /var/tmp/kpop-image     needs debootstrap, 10 GB and the network

Debian's own Python stands for the image's. What this machine's pip is told (its configuration and PIP_*
variables) is told to the chroot's too; --bind shows it folders that these name. At the end the image's
command is started as the first process of a namespace of its own, the health check has to pass, and a run of
five steps has to end. Only the standard library is used.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import re
import shlex
import shutil
import signal
import string
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
PIP = ("/etc/pip.conf", "/etc/xdg/pip", "/etc/ssl/certs/ca-certificates.crt")  # what pip reads here
PASSED = ("PIP_", "SSL_CERT_", "http_proxy", "https_proxy", "no_proxy")  # beginnings of variables
LIMIT = 600.0  # seconds until the health check has to pass
TRAIN = "python -m kpop train --concepts church --retain castle --steps 5"


@dataclass
class Image:
    """What the steps so far made. root: the chroot."""

    root: Path
    env: dict[str, str] = field(
        default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
    )
    user: str = "root"
    folder: str = "/"
    entry: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    check: list[str] = field(default_factory=list)

    def who(self) -> tuple[int, int]:
        """uid and gid of the user as the chroot has them."""
        lines = [line.split(":") for line in (self.root / "etc/passwd").read_text().splitlines()]
        return next((int(one[2]), int(one[3])) for one in lines if self.user in (one[0], one[2]))

    def line(self, words: list[str]) -> list[str]:
        """The command that does `words` in the image as it is now."""
        uid, gid = self.who()
        passed = {name: value for name, value in os.environ.items() if name.startswith(PASSED)}
        env = [f"{name}={value}" for name, value in {**passed, **self.env}.items()]
        inside = ["sh", "-c", 'cd "$0" && exec "$@"', self.folder, *words]
        return ["chroot", f"--userspec={uid}:{gid}", str(self.root), "env", "-i", *env, *inside]


def read_steps(path: Path) -> list[tuple[str, str]]:
    """(instruction, the rest of its line) of a Dockerfile."""
    text = re.sub(r"\\\n\s*", " ", re.sub(r"(?m)^\s*#.*\n", "", path.read_text("utf-8")))
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def allowed() -> list[str]:
    """What .dockerignore lets into the build: it refuses all and names what comes in."""
    lines = (REPO / ".dockerignore").read_text("utf-8").split()
    if "*" not in lines:
        raise SystemExit(".dockerignore must refuse all (*) and name what comes in (!...).")
    return [line[1:] for line in lines if line.startswith("!")]


def do(image: Image, kind: str, rest: str) -> None:
    """One step. Raises CalledProcessError where its command fails."""
    if kind == "RUN":
        subprocess.run(image.line(["sh", "-c", rest]), check=True)
    elif kind == "ENV":
        for word in shlex.split(rest):
            name, _, value = word.partition("=")
            image.env[name] = string.Template(value).safe_substitute(image.env)
    elif kind == "USER":
        image.user = rest
    elif kind == "WORKDIR":
        image.folder = rest
        (image.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
    elif kind == "COPY":
        _copy(image, rest)
    elif kind == "ENTRYPOINT":
        image.entry = json.loads(rest)
    elif kind == "CMD":
        image.command = json.loads(rest)
    elif kind == "HEALTHCHECK":
        image.check = json.loads(rest[rest.index("[") :])
    elif kind != "EXPOSE":
        raise SystemExit(f"{kind} is a step that this script does not know.")


def _copy(image: Image, rest: str) -> None:
    *flags, source, _ = rest.split()
    place = image.root / image.folder.lstrip("/")
    for name in allowed() if source == "." else [source]:
        found, to = REPO / name, place / name
        to.parent.mkdir(parents=True, exist_ok=True)
        if found.is_dir():
            shutil.copytree(found, to, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        else:
            shutil.copyfile(found, to)
    owners = [flag.partition("=")[2] for flag in flags if flag.startswith("--chown=")]
    for owner in owners:
        subprocess.run(["chroot", str(image.root), "chown", "-R", f"{owner}:", image.folder], check=True)


def bootstrap(root: Path, tag: str, mirror: str | None) -> None:
    """A minimal Debian of the base image's release, with its Python under the image's names."""
    suite, wanted = tag.rpartition("-")[2], re.search(r"python:(\d+\.\d+)", tag)[1]
    line = ["debootstrap", "--variant=minbase", "--include=python3,python3-pip,ca-certificates", suite]
    subprocess.run([*line, str(root), *([mirror] if mirror else [])], check=True, stdout=subprocess.DEVNULL)
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    for marker in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        marker.unlink()  # the image's pip installs beside its own packages
    shutil.copyfile("/etc/resolv.conf", root / "etc/resolv.conf")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")  # as an engine writes it
    for path in map(Path, PIP):
        to = root / str(path).lstrip("/")
        if path.is_dir():
            shutil.copytree(path, to, dirs_exist_ok=True)
        elif path.is_file():
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to)
    told = subprocess.run(
        ["chroot", str(root), "python", "--version"], check=True, capture_output=True, text=True
    )
    if not told.stdout.startswith(f"Python {wanted}."):
        raise SystemExit(f"Debian {suite} has {told.stdout.strip()}, and the image {wanted}.")


def mount(root: Path, bind: list[str]) -> None:
    """/proc and /dev, and folders of this machine, for as long as this namespace lives."""
    subprocess.run(["mount", "-t", "proc", "proc", str(root / "proc")], check=True)
    for name in ("/dev", *bind):
        (root / name.lstrip("/")).mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "--bind", name, str(root / name.lstrip("/"))], check=True)


def prove(image: Image) -> None:
    """Start what the image starts, let its health check pass, and train five steps."""
    if pwd.getpwuid(image.who()[0]).pw_name == "root":
        raise SystemExit("The image would run as root.")
    own = ["unshare", "--pid", "--fork", "--kill-child", f"--mount-proc={image.root}/proc"]
    app = subprocess.Popen([*own, *image.line([*image.entry, *image.command])], start_new_session=True)
    try:
        end = time.monotonic() + LIMIT
        time.sleep(10)
        while subprocess.run(image.line(image.check), capture_output=True).returncode:
            if app.poll() is not None or time.monotonic() > end:
                raise SystemExit("The health check does not pass.")
            time.sleep(10)
        print("The health check passes.", flush=True)
        subprocess.run(image.line(shlex.split(TRAIN)), check=True)
        print("A run of five steps ended.", flush=True)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(app.pid, signal.SIGKILL)
        app.wait()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m faults.chroot", description=__doc__.partition("\n")[0])
    parser.add_argument("root", type=Path, help="a new folder")
    parser.add_argument("--mirror", help="of Debian, where the usual one cannot be reached")
    parser.add_argument("--bind", action="append", default=[], help="folder that pip's configuration names")
    parser.add_argument(
        "--again", action="store_true", help="only the end, in a folder whose RUN steps were done"
    )
    asked = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        raise SystemExit("This needs root and debootstrap (apt-get install debootstrap).")
    if not os.environ.get("KPOP_CHROOT"):  # its mounts go with it
        again = ["unshare", "--mount", sys.executable, "-m", "faults.chroot", *sys.argv[1:]]
        return subprocess.run(again, env=os.environ | {"KPOP_CHROOT": "1"}, check=False).returncode
    root, image = asked.root.resolve(), Image(asked.root.resolve())
    for kind, rest in read_steps(REPO / "Dockerfile"):
        print(f"{time.strftime('%H:%M:%S')} {kind} {rest[:100]}", flush=True)
        if kind == "FROM":
            if not asked.again:
                bootstrap(root, rest, asked.mirror)
            mount(root, asked.bind)
        elif kind != "RUN" or not asked.again:
            do(image, kind, rest)
    subprocess.run(["du", "-sh", str(root / "home")], check=True)
    prove(image)
    print("Every step of the Dockerfile works.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
