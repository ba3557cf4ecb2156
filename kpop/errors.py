"""What can go wrong, in words that tell the user what to do."""

from __future__ import annotations

import re
from pathlib import Path


class KpopError(Exception):
    """Base of every error that is shown to a user: its text is one or two plain sentences."""


class InputError(KpopError):
    """Something the user typed, chose or uploaded cannot be used."""


class ModelError(KpopError):
    """A base model cannot be found, read or run."""


class RunError(KpopError):
    """A run folder is missing, damaged, not writable, or in a state that forbids what was asked."""


_QUOTED = re.compile(r"""(['"])(?:/[^'"/\n]+)+/([^'"/\n]+)/?\1""")
_BARE = re.compile(r"""(?<![\w./:~'"])(?:/[^\s'"<>()/:,;]+)+/([^\s'"<>()/:,;]+)""")


def placeless(text: str, folder: Path | None = None) -> str:
    """A sentence for who must not learn where files lie: of absolute paths only the last name is left.

    folder: one that may be named in it; what is below it is told whole.
    """
    if folder is not None:
        text = text.replace(str(folder), folder.name)
    return _BARE.sub(r"…/\1", _QUOTED.sub(r"\1…/\2\1", text))
