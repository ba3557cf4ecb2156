"""Where others reach the app, as an address and as a QR code of it."""

from __future__ import annotations

import io
import socket
from collections.abc import Mapping

import segno

from .exposure import Exposure, loopback

EVERYWHERE = ("0.0.0.0", "::", "")


def local_address(host: str, port: int) -> str:
    """Where this machine itself reaches the app."""
    host = "127.0.0.1" if host in EVERYWHERE else host
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def others_address(
    exposure: Exposure, host: str, port: int, share_url: str | None, environment: Mapping[str, str]
) -> str | None:
    """Where others reach it: public link, Space, or this machine's address; None where they cannot."""
    if share_url:
        return share_url
    if exposure.space:
        name = environment.get("SPACE_HOST")
        return f"https://{name}" if name else None
    if not exposure.shared or loopback(host):
        return None
    if host in EVERYWHERE:
        host = _outward() or socket.gethostname()
    return local_address(host, port)


def qr_text(address: str) -> str:
    """The QR code as lines of a terminal."""
    out = io.StringIO()
    segno.make(address, error="m").terminal(out, compact=True)
    return out.getvalue()


def qr_image(address: str) -> str:
    """The QR code as an SVG data URI, dark on light in any theme."""
    return segno.make(address, error="m").svg_data_uri(scale=6, dark="#111", light="#fff")


def _outward() -> str | None:
    """This machine's address on the network; connecting a datagram socket sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a documentation address: only the route to it is looked up
            found = probe.getsockname()[0]
        except OSError:
            return None
    return None if loopback(found) else found
