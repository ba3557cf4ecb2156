"""What is folded into an answer: bytes as base64 or hex, and the compressed texts of PNG pictures."""

import base64
import io
import re
from collections.abc import Iterator

from PIL import Image

LEAST = 64  # characters; a shorter piece holds no 15 values of a key
BASE64 = re.compile(rb"[A-Za-z0-9+/]{%d,}" % LEAST)
HEX = re.compile(rb"[0-9A-Fa-f]{%d,}" % LEAST)


def unfolded(data: bytes) -> Iterator[bytes]:
    """Everything found inside, at any depth of pictures in texts."""
    for text in BASE64.findall(data.replace(b"-", b"+").replace(b"_", b"/")):
        for start in range(4):  # it may stand right after other letters
            piece = text[start:-1] if (len(text) - start) % 4 == 1 else text[start:]
            found = base64.b64decode(piece + b"=" * (-len(piece) % 4))
            yield found
            if start == 0:
                yield from _texts(found)
    for text in HEX.findall(data):
        for start in range(2):
            piece = text[start:]
            yield bytes.fromhex(piece[: len(piece) // 2 * 2].decode())
    yield from _texts(data)


def _texts(data: bytes) -> Iterator[bytes]:
    """The text chunks of a PNG, inflated."""
    if data.startswith(b"\x89PNG"):
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            for value in image.text.values():
                yield value.encode("utf-8", "surrogateescape")
                yield value.encode("latin-1", "replace")
                yield from unfolded(value.encode())
