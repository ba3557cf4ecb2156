"""python -m kpop: see cli.py."""

import os
import sys

from .cli import main

status = main()
if int(os.environ.get("WORLD_SIZE", "1")) > 1:
    from .processes import leave

    leave(status)
sys.exit(status)
