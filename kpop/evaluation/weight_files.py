"""Weights of detectors and scores that the repository does not hold: found, fetched once, or asked for."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..disk import brief
from ..errors import ModelError

TIMEOUT = 10  # seconds until a host that does not answer is given up


def torch_file(url: str, what: str) -> Path:
    """The file of `url` in torch's cache (TORCH_HOME), fetched where it is missing.

    what: who needs it, for the sentence. Raises ModelError that says which file and how to get it.
    """
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if path.is_file():
        return path
    try:
        if _offline():
            raise OSError("HF_HUB_OFFLINE is set")
        # The download itself has no time limit, so ask first whether anybody answers.
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT).close()
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), progress=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"{what} needs {path.name}, which is not in {path.parent} and could not be fetched "
            f"({brief(error)}). Download {url} and put it there."
        ) from error
    return path


@contextmanager
def reading(url: str, what: str) -> Iterator[Path]:
    """torch_file, for a body that loads it: what fails there is a file cut short. Raises ModelError."""
    path = torch_file(url, what)
    try:
        yield path
    except Exception as error:  # a zip, pickle, end-of-file or runtime error
        raise ModelError(
            f"{path} cannot be read ({brief(error)}). Delete it and download {url} again."
        ) from error


def hub_folder(repo: str, patterns: Sequence[str], what: str) -> Path:
    """The files of a hub repository on this machine, fetched where they are missing. Raises ModelError."""
    from huggingface_hub import HfApi, snapshot_download

    wanted = {"repo_id": repo, "allow_patterns": list(patterns)}
    try:
        return Path(snapshot_download(**wanted, local_files_only=True))
    except Exception as absent:  # the hub client raises many kinds, among them its HTTP library's own
        try:
            if _offline():
                raise OSError("HF_HUB_OFFLINE is set") from absent
            HfApi().model_info(repo, timeout=TIMEOUT)
            return Path(snapshot_download(**wanted))
        except Exception as error:
            raise ModelError(
                f"{what} needs {repo}, which is not in the Hugging Face cache and could not be fetched "
                f"({brief(error)}). Run `hf download {repo}` where there is internet, and copy the cache "
                "(HF_HOME) here."
            ) from error


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
