"""The fault suite: real servers and workers, harmed at random moments, then judged by what is on disk."""

import sys
from pathlib import Path

# Its small model is made by a helper of the tests, which are in no package.
sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
