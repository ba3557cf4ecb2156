"""Who asks, on a shared app: a random id that the server signed, kept in the browser as a cookie.

Never an address or a session of the page: rooms share an address, and a reload makes a new session.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path

from .disk import disk_error

LOCAL = "local"  # whoever sits at a machine that nobody else reaches; owner of what the command line starts
HOST = "facilitator"  # whoever has the second login
NOBODY = ""  # owns nothing
ID = re.compile(r"visitor-[0-9a-f]{32}")
SECRET_FILE = ".visitors"


def signing_secret(runs_dir: Path) -> bytes:
    """32 bytes from a file beside the runs, for the app's user only, so that visitors outlive a restart.

    Raises RunError when it can be neither read nor made.
    """
    path = Path(runs_dir) / SECRET_FILE
    try:
        try:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(32))
        except FileExistsError:
            path.chmod(0o600)
        found = path.read_bytes()
        if len(found) < 32:  # another app writes it at this moment, or it was cut
            found = secrets.token_bytes(32)
            path.write_bytes(found)
        return found
    except OSError as error:
        raise disk_error(error, path.parent) from error


def cookie_name(secret: bytes) -> str:
    """Browsers send cookies to every port of a machine: apps with other runs must not overwrite ours."""
    return f"kpop-visitor-{hashlib.sha256(b'name' + secret).hexdigest()[:8]}"


def new_visitor(secret: bytes) -> tuple[str, str]:
    """A fresh id and the cookie's value for it."""
    visitor = f"visitor-{secrets.token_hex(16)}"
    return visitor, f"{visitor}.{_signature(secret, visitor)}"


def visitor_of(secret: bytes, cookie: str | None) -> str | None:
    """The id in a cookie, or None where the server did not sign it."""
    visitor, _, signature = (cookie or "").partition(".")
    if not ID.fullmatch(visitor):
        return None
    right = _signature(secret, visitor)
    return visitor if hmac.compare_digest(signature.encode(), right.encode()) else None


def _signature(secret: bytes, visitor: str) -> str:
    return hmac.new(secret, visitor.encode(), hashlib.sha256).hexdigest()
