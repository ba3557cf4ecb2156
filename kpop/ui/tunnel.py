"""The public link of --share: gradio's tunnel, opened after the app, so that the app stands without it."""

from __future__ import annotations

import contextlib
import io
import logging

from gradio import Blocks, networking

from ..address import EVERYWHERE

log = logging.getLogger("kpop.ui")


def open_tunnel(demo: Blocks) -> str | None:
    """The public address of a launched app, kept in demo.share_url too; None when there is no way out."""
    host = "127.0.0.1" if demo.server_name in EVERYWHERE else demo.server_name
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # its own log, which tells no user what to do
            url = networking.setup_tunnel(
                local_host=host,
                local_port=demo.server_port,
                share_token=demo.share_token,
                share_server_address=None,
                share_server_tls_certificate=None,
            )
    except Exception as error:  # network, download, checksum, a folder that cannot be written
        log.info("no tunnel", exc_info=error)
        return None
    demo.share_url = "https://" + url.split("://", 1)[-1]
    return demo.share_url
