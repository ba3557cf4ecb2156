"""What the suite counts, and the page that it writes: docs/reliability.md."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import torch

from kpop.disk import write_text

TRACEBACK = re.compile(r'Traceback \(most recent call last\)|File "[^"]+", line \d+')
MOST_NOTES = 8  # of a kind; the newest say most
MOST_TOLD = 300  # characters of a note
HEAD = (
    "fault", "asked", "struck", "runs lost", "runs stuck", "server deaths", "tracebacks shown",
    "answers without words", "resumed, equal",
)  # fmt: skip
SHOWN = ("torch", "diffusers", "gradio", "filelock", "psutil", "hypothesis")


@dataclass
class Figures:
    """Counts of one kind of fault. `struck` should reach `asked`; what follows it, but for `resumed` and
    `equal`, should be 0.
    """

    fault: str
    asked: int = 0  # occasions that have to strike
    times: int = 0  # occasions that were tried
    struck: int = 0  # of them where the harm was done: a process that lived was killed, a write was refused
    lost: int = 0  # finished steps older than the last checkpoint were gone, or wrong ones were used
    stuck: int = 0  # a run that came to no end, or a queue that did not go on
    deaths: int = 0  # a server that ended by itself or stopped answering
    tracebacks: int = 0  # answers and run cards that showed one
    bare: int = 0  # answers 5xx or without words, or faults of ours in the server's log
    resumed: int = 0  # runs that were struck and carried to their end
    equal: int = 0  # of them with the uninterrupted run's weights and key, bit for bit
    notes: list[str] = field(default_factory=list)
    not_run: str = ""

    @property
    def holds(self) -> bool:
        """Whether the fault struck as often as asked and did no harm."""
        harm = self.lost + self.stuck + self.deaths + self.tracebacks + self.bare
        return harm == 0 and self.equal == self.resumed and self.struck >= self.asked and not self.not_run

    def shown(self, text: str) -> str:
        """The text of an answer, counted when a traceback is in it."""
        self.tracebacks += bool(TRACEBACK.search(text))
        return text


def table(rows: Sequence[Figures]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(HEAD) + " |", "|---|" + "---:|" * (len(HEAD) - 1)]
    for row in rows:
        if row.not_run:
            cells = [row.fault, str(row.asked), "0", f"not run: {row.not_run}", *[""] * (len(HEAD) - 4)]
        else:
            counts = (row.asked, row.struck, row.lost, row.stuck, row.deaths, row.tracebacks, row.bare)
            cells = [row.fault, *map(str, counts), f"{row.equal} of {row.resumed}" if row.resumed else "-"]
        lines.append("| " + " | ".join(cells) + " |")
    notes = [f"- {row.fault}: {note}" for row in rows for note in _few(row.notes)]
    return "\n".join([*lines, "", *notes])


def _few(notes: Sequence[str]) -> list[str]:
    left = len(notes) - MOST_NOTES
    told = [note if len(note) <= MOST_TOLD else f"{note[:MOST_TOLD]}..." for note in notes[-MOST_NOTES:]]
    return [*told, *([f"and {left} more before these."] if left > 0 else [])]


def page(rows: Sequence[Figures], command: str, seed: int, minutes: float) -> str:
    """docs/reliability.md."""
    told = ", ".join(f"{name} {version(name)}" for name in SHOWN)
    name = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = found[0].split(":", 1)[1].strip() if found else name
    where = f"{name}, {torch.get_num_threads()} torch thread(s), {platform.system()} {platform.release()}"
    return f"""# Reliability

What the app does when things go wrong. The figures are written by the command below: it starts real
servers and real trainings of a small random model, does the harm at moments drawn from the seed, and reads
the run folders afterwards.

    {command}

{datetime.now():%Y-%m-%d}, seed {seed}, {minutes:.0f} minutes; {where};
Python {platform.python_version()}, {told}.

{table(rows)}

*Asked*: occasions that the command asked for. *Struck*: those on which the harm was done (the process that
was killed lived and its run was being trained, a write was refused, a request was malformed); others are
tried again and not counted. *Runs lost*: a finished step older than the last checkpoint was gone, or a run
went on from wrong numbers without a word. *Runs stuck*: a run that came to no end with a way on, or a queue
that did not go on. *Server deaths*: a server that ended by itself or stopped answering. *Tracebacks shown*:
answers and cards of runs that had one. *Answers without words*: requests refused without a sentence, answered
5xx, or that broke something (by the server's log). *Resumed, equal*: distinct runs that were struck, some of
them several times, and carried to their end; and how many of them have the uninterrupted run's weights and
key, bit for bit. A damaged checkpoint with no whole one before it is refused in words.
"""


def write_page(path: Path, rows: Sequence[Figures], command: str, seed: int, minutes: float) -> None:
    """Replace the page in one go. Raises RunError."""
    write_text(path, page(rows, command, seed, minutes))
