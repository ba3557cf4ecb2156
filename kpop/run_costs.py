"""What makes a run dear beside its number of steps, and how much of it a visitor of a shared app may have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import InputError

if TYPE_CHECKING:
    from .config import EraseConfig

ROLLOUT = 50  # sampling steps of a trajectory
SAMPLES = 40  # of a run: each draws several pictures
CHECKPOINTS = 200  # of a run: each writes all that is trained
FRESH = 1000  # steps with a trajectory of their own, as the paper's settings have them


def check_costs(config: EraseConfig) -> None:
    """Raise InputError where a run of a shared app would cost too much. config: resolved."""
    steps = config.steps or 0
    for asked, most, what, mend in (
        (config.rollout_steps or 0, ROLLOUT, "rollout_steps", "Take fewer"),
        (_times(steps, config.sample_every), SAMPLES, "samples", "Raise sample_every, or set it to 0"),
        (_times(steps, config.checkpoint_every), CHECKPOINTS, "checkpoints", "Raise checkpoint_every"),
        (steps if config.latents == "fresh" else 0, FRESH, "steps with latents fresh", "Take the bank"),
    ):
        if asked > most:
            raise InputError(
                f"This app is shared: a run may have at most {most} {what}, not {asked}. {mend}."
            )
    if config.trainable == "full":
        raise InputError("This app is shared: a run may not train the full U-Net. Take another trainable.")


def _times(steps: int, every: int | None) -> int:
    return -(-steps // every) if every else 0
