"""Fields of EraseConfig that came when runs were kept already, at the values at which they say nothing new.

What a run lacks of them in its config.json it was trained without: today's default would change it half way.
"""

from __future__ import annotations

from typing import Any

LATER = {
    "anchors": [],
    "decoy_share": 0.0,
    "gradient_checkpointing": False,
    "kept_key_share": 0.0,
    "key_share": 0.0,
    "near_share": 0.5,
    "pair_share": 0.0,
    "rate_decay": 0.0,
}
_ERASE_ON = {"kpop": "both", "ca": "neutral"}


def erased_on(method: str) -> str:
    """What erase_on was when each method had its own."""
    return _ERASE_ON.get(method, "concept")


def as_it_was(told: dict[str, Any]) -> dict[str, Any]:
    """The contents of a run's config.json with every field that it lacks for its age."""
    return {**LATER, "erase_on": erased_on(str(told.get("method", "kpop"))), **told}
