"""What an evaluation in the background is asked for, as the words of the command `evaluate` and checked."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cli_values import evaluation_seeds, word_template
from .config import concept_name, is_style
from .errors import InputError
from .evaluation.lines import SCORES, Line
from .model_table import family
from .presets import are_sensitive, list_presets
from .runs import Run

PROTOCOLS = ("objects", "sensitive", "style", "csv")
FIRST_SEED = 500  # as the command's default: no training draws from these
UNTOUCHED = 3  # words of neither list that are looked for unasked
MOST_PICTURES = 50  # a prompt; the command takes more


@dataclass(frozen=True)
class Ask:
    """What to evaluate. words: of `objects`; pictures: a prompt, but of `csv` the file says which seeds.

    seeds: one a picture, as "500-509" or "1,5,9-11"; they say how many pictures. "": those from FIRST_SEED.
    """

    protocol: str = "objects"
    words: tuple[str, ...] = ()
    pictures: int = 10
    seeds: str = ""

    def __post_init__(self):
        if self.seeds:
            found = seeds_asked(self.seeds)
            object.__setattr__(self, "pictures", len(found))
        if self.protocol not in PROTOCOLS:
            raise InputError(f"The protocol is one of {', '.join(PROTOCOLS)}.")
        if isinstance(self.pictures, bool) or not isinstance(self.pictures, int | float):
            raise InputError("The number of pictures must be a whole number.")
        if not 1 <= self.pictures <= MOST_PICTURES or self.pictures != int(self.pictures):
            raise InputError(f"The number of pictures is a whole number from 1 to {MOST_PICTURES}.")
        if self.protocol == "objects" and not self.words:
            raise InputError("Choose at least one word to look for.")
        if any("," in word for word in self.words):
            raise InputError("A word to look for holds no comma.")


def seeds_asked(text: object) -> list[int]:
    """Seeds of a page's field, each once. Raises InputError."""
    from .cli_values import seed_list

    if not isinstance(text, str) or not text.strip():
        raise InputError("Write the seeds as 500-509 or 1,5,9: one picture each.")
    found = seed_list(text.replace(" ", ""))
    if len(found) > MOST_PICTURES:
        raise InputError(
            f"These are {len(found)} seeds. Here at most {MOST_PICTURES} at a time; "
            "python -m kpop evaluate takes more."
        )
    return found


def usual_seeds(pictures: int) -> str:
    """The seeds of so many pictures where nobody chose others: "500-509"."""
    return f"{FIRST_SEED}-{FIRST_SEED + pictures - 1}" if pictures > 1 else str(FIRST_SEED)


def command_line(run: Run, request: dict[str, Any], out: Path) -> list[str]:
    """`evaluate` as a request asks for it. out: its folder; a prompt list lies there as prompts.csv."""
    protocol, pictures = request["protocol"], int(request["pictures"])
    line = ["evaluate", str(run.path), "--runs", str(out.parent.parent.parent), "--out", str(out)]
    line += ["--device", request["device"], "--protocol", protocol]
    if protocol == "objects":
        line += ["--words", ",".join(request["words"])]
    if (out / "prompts.csv").is_file():
        line += ["--prompts", str(out / "prompts.csv")]
    else:
        line += ["--seeds", request.get("seeds") or usual_seeds(pictures)]
    return line


def protocols_of(run: Run) -> tuple[str, ...]:
    """The protocols that fit a run: `sensitive` where a preset calls its concept so, `style` of styles."""
    found = ["style"] if _has_style(run) and family(run.config.model) == "emoji" else ["objects"]
    return (*found, *(["sensitive"] if are_sensitive(run.config.concepts, list_presets()) else []), "csv")


def _has_style(run: Run) -> bool:
    return all(is_style(concept_name(concept)) for concept in run.config.concepts)


def words_of(run: Run) -> dict[str, tuple[str, ...]]:
    """role -> words that `objects` may look for: what the run erases, retains, and some of neither."""
    from .continual import judged_config
    from .evaluation.splits import untouched_words

    config = judged_config(run)
    erased, retained = config.concepts, config.retain or ()
    return {
        "erased": tuple(map(concept_name, erased)),
        "retained": tuple(map(concept_name, retained)),
        "untouched": untouched_words(family(run.config.model), (*erased, *retained)),
    }


def usual_words(run: Run, labels: Sequence[str]) -> list[str]:
    """What the command looks for where no words are given: all of both lists, and UNTOUCHED of neither.

    labels: what the judge knows; of neither list only such are taken.
    """
    found = words_of(run)
    others = [word for word in found["untouched"] if word in labels]
    return [*found["erased"], *found["retained"], *others[:UNTOUCHED]]


def prompt_count(run: Run, protocol: str, words: Sequence[str]) -> int | None:
    """How many prompts are drawn, each as often as asked, the neutral one too; None where a file says it."""
    if protocol == "objects":
        from .continual import judged_config
        from .evaluation.protocol import role_of

        config = judged_config(run)
        return len(set(words)) + any(role_of(word, config) == "erased" for word in words)
    if protocol == "csv" or family(run.config.model) != "emoji":
        return None
    if protocol == "style":
        from .evaluation.styles import OBJECTS, styles_of

        return OBJECTS * len(styles_of(run.config))
    from .emoji.world import INDIRECT

    return 2 * len({text for texts in INDIRECT.values() for text in texts}) + 1  # as many of other things


def plan_of(run: Run, request: dict[str, Any], out: Path, pipe) -> tuple[list[Line], int]:
    """Lines of the table, and number of pictures. Raises KpopError on what the command would refuse."""
    from .cli import build_parser

    args = build_parser().parse_args(command_line(run, request, out))
    if request["protocol"] == "objects":
        lines, prompts, count = _words_plan(args)
    else:
        lines, prompts, count = _prompts_plan(args)
    if pipe is not None:
        from . import models

        if models.known_words(pipe):  # other models cut what is too long
            for prompt in dict.fromkeys(prompts):
                models.check_text(pipe, prompt)
    return lines, count * len(run.method.variants)


def _words_plan(args: argparse.Namespace) -> tuple[list[Line], list[str], int]:
    from .commands import words_asked
    from .continual import judged_config
    from .evaluation.protocol import NEUTRAL, NEUTRAL_TEXT, accepted_labels, role_of
    from .run_texts import phrase

    run, words, judge = words_asked(args)
    config = judged_config(run)
    lines = [
        Line(word, role_of(word, config), "word", word, accepted_labels(word, config, judge.labels))
        for word in dict.fromkeys(words)
    ]
    prompts = [phrase(word_template(args), word) for word in dict.fromkeys(words)]
    erased = [label for line in lines if line.role == "erased" for label in line.labels]
    if erased:
        lines.append(Line(NEUTRAL_TEXT, NEUTRAL, "word", NEUTRAL_TEXT, tuple(dict.fromkeys(erased))))
        prompts.append(run.config.resolved().neutral)
    order = ("erased", "retained", "untouched", NEUTRAL)
    lines.sort(key=lambda line: order.index(line.role))
    return lines, prompts, len(prompts) * len(set(evaluation_seeds(args)))


def _prompts_plan(args: argparse.Namespace) -> tuple[list[Line], list[str], int]:
    from .evaluation.prompt_protocol import NEUTRAL, ORDER, OTHERS, PARTS_AT, erased_targets
    from .evaluation.protocol import NEUTRAL_TEXT
    from .prompt_commands import prepare

    asked = prepare(args)
    groups = {case.label: case.group for case in asked.cases}
    every = sorted({case.group for case in asked.cases}, key=ORDER.index)
    lines = []
    if "targets" in asked.counted:
        found = sorted(asked.counted["targets"].items(), key=lambda item: ORDER.index(groups[item[0]]))
        lines = [Line(label, groups[label], "label", label, (target,)) for label, target in found]
        if NEUTRAL in every:
            gone = erased_targets(asked.cases, asked.counted["targets"])
            lines.append(Line(NEUTRAL_TEXT, NEUTRAL, "group", NEUTRAL, gone))
    for name, parts in asked.counted.get("parts", {}).items():
        seen = [group for group in every if group != OTHERS]
        lines += [Line(name, group, "group", group, tuple(parts), PARTS_AT) for group in seen]
    if not lines or "parts" in asked.counted:
        told = zip(SCORES, (asked.measured.text, asked.measured.base), strict=True)
        lines += [
            Line(column, group, "group", group)
            for column, measured in told
            if measured
            for group in every
            if group != NEUTRAL
        ]
    return lines, [case.prompt for case in asked.cases], len(asked.cases)
