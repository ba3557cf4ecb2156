"""Which browser a script may drive."""

from __future__ import annotations

import shutil
from pathlib import Path


def find_browser(engine) -> str | None:
    """A chromium of the system, else Playwright's own."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    return found or (engine.executable_path if Path(engine.executable_path).exists() else None)
