"""Single values of a configuration: checked and put in order, or refused with what to change (InputError)."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from .errors import InputError

MOST_CHARACTERS = 200
MOST_WORDS = 20
Concept = str | tuple[str, ...]


def text_value(name: str, value: Any, most: int) -> str:
    """One line of text of at most `most` characters."""
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{name} must be a text, not {value!r}.")
    if len(value) > most or not value.isprintable():
        raise InputError(f"{name} must be one line of at most {most} characters.")
    return value.strip()


def words_value(name: str, value: Any, empty: bool = False) -> str:
    """Words without superfluous blanks; empty: "" is one too."""
    if not isinstance(value, str):
        raise InputError(f"{name} must be a text, not {value!r}.")
    value = " ".join(value.split())
    if not value and not empty:
        raise InputError(f"{name} holds an empty text; write a word or remove it.")
    if len(value) > MOST_CHARACTERS or len(value.split()) > MOST_WORDS:
        raise InputError(
            f"{name}: {value[:40]!r}... is too long; use at most {MOST_WORDS} words "
            f"and {MOST_CHARACTERS} characters."
        )
    if not value.isprintable():
        raise InputError(f"{name} holds characters that cannot be printed; type it again.")
    return value


def concepts_value(name: str, value: Any) -> tuple[Concept, ...]:
    """Words, or tuples of synonyms."""
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, list | tuple):
        raise InputError(f"{name} must be a list of words, not {value!r}.")
    if len(value) > 200:
        raise InputError(f"{name} holds {len(value)} entries; use at most 200.")
    found: list[Concept] = []
    for item in value:
        if isinstance(item, list | tuple):
            synonyms = tuple(words_value(name, word) for word in item)
            if not synonyms:
                raise InputError(f"{name} holds an empty list of synonyms; remove it.")
            found.append(synonyms if len(synonyms) > 1 else synonyms[0])
        else:
            found.append(words_value(name, item))
    return tuple(found)


def templates_value(value: Any) -> tuple[str, ...]:
    """Phrasings with "{}" once in each."""
    value = (value,) if isinstance(value, str) else value
    if not isinstance(value, list | tuple) or not value:
        raise InputError('templates must be a list of phrasings such as ["{}", "a photo of a {}"].')
    found = tuple(words_value("templates", item) for item in value)
    for item in found:
        if item.count("{}") != 1 or item.replace("{}", "").count("{") or item.replace("{}", "").count("}"):
            raise InputError(f'templates: {item!r} must hold "{{}}" once, where the concept stands.')
    return found


def choice_value(name: str, value: Any, options: tuple[str, ...], optional: bool) -> None:
    """One of `options`."""
    if (value is None and optional) or (isinstance(value, str) and value in options):
        return
    raise InputError(f"{name} must be one of {', '.join(options)}, not {value!r}.")


def whole_value(name: str, value: Any, low: int, high: int) -> int | None:
    """A whole number from low to high; None for a field left out."""
    if value is None and name not in ("seed", "schema"):
        return None
    if (
        isinstance(value, bool)
        or not isinstance(value, Real)
        or not math.isfinite(value)
        or value != int(value)
    ):
        raise InputError(f"{name} must be a whole number, not {value!r}.")
    if not low <= value <= high:
        raise InputError(f"{name} must be from {low} to {high}, not {value}.")
    return int(value)


def real_value(name: str, value: Any, low: float, high: float | None) -> float | None:
    """A finite number from low to high; None for a field left out."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise InputError(f"{name.rstrip('_')} must be a number, not {value!r}.")
    if value < low or (high is not None and value > high) or (name in ("rho", "rho_p") and value == 0):
        asked = f"from {low} to {high}" if high is not None else "above 0"
        raise InputError(f"{name.rstrip('_')} must be {asked}, not {value}.")
    return float(value)
