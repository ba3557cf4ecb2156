"""Checks of single values of the configurations: each returns the value tidied, or raises InputError."""

from __future__ import annotations

import math
import reprlib
from numbers import Real
from typing import Any

from .errors import InputError

MOST_CHARACTERS = 200
MOST_WORDS = 20
Concept = str | tuple[str, ...]
WRITER = reprlib.Repr()
WRITER.maxlevel = 2


def brief(value: Any) -> str:
    """A value as Python writes it, cut short: a settings file can hold one that takes gigabytes to write."""
    try:
        return WRITER.repr(value)[:200]
    except ValueError:  # a whole number of thousands of digits
        return f"this {type(value).__name__}"


def text(name: str, value: Any, most: int) -> str:
    """One line of at most `most` characters."""
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{name} must be a text, not {brief(value)}.")
    if len(value) > most or not value.isprintable():
        raise InputError(f"{name} must be one line of at most {most} characters.")
    return value.strip()


def words(name: str, value: Any, empty: bool = False) -> str:
    """A short text, its white space made single."""
    if not isinstance(value, str):
        raise InputError(f"{name} must be a text, not {brief(value)}.")
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


def concepts(name: str, value: Any) -> tuple[Concept, ...]:
    """A list of words; a list inside it is one concept of several synonyms."""
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, list | tuple):
        raise InputError(f"{name} must be a list of words, not {brief(value)}.")
    if len(value) > 200:
        raise InputError(f"{name} holds {len(value)} entries; use at most 200.")
    found: list[Concept] = []
    for item in value:
        if isinstance(item, list | tuple):
            synonyms = tuple(words(name, word) for word in item)
            if not synonyms:
                raise InputError(f"{name} holds an empty list of synonyms; remove it.")
            found.append(synonyms if len(synonyms) > 1 else synonyms[0])
        else:
            found.append(words(name, item))
    return tuple(found)


def templates(value: Any) -> tuple[str, ...]:
    """Phrasings that hold "{}" once each."""
    value = (value,) if isinstance(value, str) else value
    if not isinstance(value, list | tuple) or not value:
        raise InputError('templates must be a list of phrasings such as ["{}", "a photo of a {}"].')
    found = tuple(words("templates", item) for item in value)
    for item in found:
        if item.count("{}") != 1 or item.replace("{}", "").count("{") or item.replace("{}", "").count("}"):
            raise InputError(f'templates: {item!r} must hold "{{}}" once, where the concept stands.')
    return found


def anchors(value: Any) -> tuple[str, ...]:
    """Texts, which may be empty."""
    value = (value,) if isinstance(value, str) else value
    if not isinstance(value, list | tuple):
        raise InputError('anchors must be a list of texts such as ["a house", "a cat"], one a template.')
    return tuple(words("anchors", item, empty=True) for item in value)


def choice(name: str, value: Any, options: tuple[str, ...], optional: bool) -> None:
    """One of `options`, or None where it is optional."""
    if (value is None and optional) or (isinstance(value, str) and value in options):
        return
    raise InputError(f"{name} must be one of {', '.join(options)}, not {brief(value)}.")


def whole(name: str, value: Any, low: int, high: int) -> int | None:
    """A whole number from low to high, or None but for the schema."""
    if value is None and name != "schema":
        return None
    if isinstance(value, bool) or not isinstance(value, Real) or not _finite(value) or value != int(value):
        raise InputError(f"{name} must be a whole number, not {brief(value)}.")
    if not low <= value <= high:
        raise InputError(f"{name} must be from {low} to {high}, not {brief(value)}.")
    return int(value)


def real(name: str, value: Any, low: float, high: float | None) -> float | None:
    """A number from low to high (None: no upper end), or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real) or not _finite(value):
        raise InputError(f"{name.rstrip('_')} must be a number, not {brief(value)}.")
    if value < low or (high is not None and value > high) or (name in ("rho", "rho_p") and value == 0):
        asked = f"from {low} to {high}" if high is not None else "above 0"
        raise InputError(f"{name.rstrip('_')} must be {asked}, not {brief(value)}.")
    return float(value)


def _finite(value: Real) -> bool:
    """Whole numbers beyond any float are finite too; the ranges refuse them."""
    return isinstance(value, int) or math.isfinite(value)
