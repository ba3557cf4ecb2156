"""What one visitor of a shared app may ask for, and the sentences that refuse more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .config import names
from .errors import InputError, RunError
from .run_costs import check_costs

if TYPE_CHECKING:
    from .config import EraseConfig


@dataclass(frozen=True)
class Limits:
    """None: no limit. active: a visitor's runs that wait or train; kept: all that lie in the folder;
    steps, batch, key (k of prompt_tokens_factor), concepts (every word of those to forget and to keep) and
    phrasings of a run;
    prompt: characters; pictures, sampling: pictures of one click, and sampling steps of each; larger: whether
    pictures may be larger than the model's own.
    evaluations: a visitor's that wait or work; judged: pictures of one evaluation.
    Of all visitors together, so that a dropped cookie wins nothing: queue: runs that wait or train;
    judging: evaluations that wait or work, each a process.
    """

    active: int | None = None
    kept: int | None = None
    steps: int | None = None
    batch: int | None = None
    key: int | None = None
    concepts: int | None = None
    phrasings: int | None = None
    prompt: int | None = None
    pictures: int | None = None
    sampling: int | None = None
    evaluations: int | None = None
    judged: int | None = None
    queue: int | None = None
    judging: int | None = None
    larger: bool = True

    def check_run(self, config: EraseConfig) -> None:
        """Raise InputError where a run is larger than allowed. config: resolved."""
        words = sum(len(names(concept)) for concept in (*config.concepts, *(config.retain or ())))
        for asked, most, what in (
            (config.steps, self.steps, "steps"),
            (config.batch_size, self.batch, "rows a step (batch)"),
            (config.prompt_tokens_factor, self.key, "as the size of the key"),
            (words, self.concepts, "words, synonyms and those to keep among them"),
            (len(config.templates or ()), self.phrasings, "phrasings"),
        ):
            if most is not None and (asked or 0) > most:
                raise InputError(f"This app is shared: a run may have at most {most} {what}, not {asked}.")
        if self.steps is not None:
            check_costs(config)

    def check_queue(self, active: int, kept: int, new: bool = True, everybody: int = 0) -> None:
        """Raise RunError where a visitor with that many runs may not start (new) or resume another one.

        everybody: runs of all visitors that wait or train.
        """
        if self.active is not None and active >= self.active:
            runs = "run" if self.active == 1 else "runs"
            raise RunError(
                f"This app is shared: {self.active} {runs} a visitor may wait or train. "
                "Wait for yours, or stop it."
            )
        if self.queue is not None and everybody >= self.queue:
            raise RunError(
                f"This app is shared: at most {self.queue} runs wait or train at a time. Try again later."
            )
        if new and self.kept is not None and kept >= self.kept:
            raise RunError(
                f"This app is shared: a visitor may keep {self.kept} runs. Delete one of yours first."
            )

    def check_evaluations(self, mine: int, everybody: int) -> None:
        """Raise RunError where a visitor with that many evaluations going on may not start or resume one."""
        if self.evaluations is not None and mine >= self.evaluations:
            one = self.evaluations == 1
            most, which = (
                ("1 evaluation", "yours") if one else (f"{self.evaluations} evaluations", "one of yours")
            )
            raise RunError(
                f"This app is shared: {most} a visitor may wait or work. Wait for {which}, or stop it."
            )
        if self.judging is not None and everybody >= self.judging:
            raise RunError(
                f"This app is shared: at most {self.judging} evaluations wait or work at a time. "
                "Try again in some minutes."
            )

    def check_judged(self, pictures: int) -> None:
        """Raise InputError where an evaluation would draw and judge more than allowed."""
        if self.judged is not None and pictures > self.judged:
            raise InputError(
                f"This app is shared: an evaluation may judge at most {self.judged} pictures, "
                f"not {pictures}. Take fewer seeds, words or prompts."
            )

    def check_prompt(self, text: str) -> None:
        """Raise InputError where a prompt is longer than allowed."""
        if self.prompt is not None and len(text) > self.prompt:
            raise InputError(f"This app is shared: a prompt may have at most {self.prompt} characters.")

    def check_pictures(self, count: int, steps: int | None = None) -> None:
        """Raise InputError where one click would draw more than allowed. steps: None for the usual."""
        if self.pictures is not None and count > self.pictures:
            raise InputError(
                f"This app is shared: at most {self.pictures} pictures a click, not {count}. "
                "Take fewer seeds."
            )
        if self.sampling is not None and (steps or 0) > self.sampling:
            raise InputError(f"This app is shared: at most {self.sampling} sampling steps, not {steps}.")

    def check_size(self, side: int | None, own: int) -> None:
        """Raise InputError where a picture would be larger than allowed. side, own: pixels."""
        if not self.larger and (side or 0) > own:
            raise InputError(f"This app is shared: pictures have at most {own} pixels a side, not {side}.")


UNLIMITED = Limits()
ROOM = Limits(
    active=2, kept=12, steps=2000, batch=16, key=20, concepts=60, phrasings=20, prompt=400, pictures=24,
    sampling=100, evaluations=1, judged=2000, judging=6, larger=False,
)  # fmt: skip
SPACE = Limits(
    active=1, kept=3, steps=700, batch=8, key=10, concepts=60, phrasings=20, prompt=200, pictures=12,
    sampling=50, evaluations=1, judged=800, queue=8, judging=3, larger=False,
)  # fmt: skip
