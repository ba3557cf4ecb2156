"""The words of a prompt and the text-encoder positions that hold them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .errors import InputError

STOP_WORDS = frozenset(
    "a an the this that these those some any and or but nor of in on at by for from to into onto over under "
    "with without as is are was were be been it its his her their my your our i you he she we they next near "
    "up down".split()
)


@dataclass(frozen=True)
class Word:
    """One word (or punctuation mark) as written, and its token positions; position 0 is the start token."""

    text: str
    positions: tuple[int, ...]


@dataclass(frozen=True)
class PromptWords:
    """A prompt split as its tokenizer splits it. end: position of the end token, where the prompt stops."""

    prompt: str
    words: tuple[Word, ...]
    end: int
    tokenizer: Any

    def content_words(self) -> tuple[str, ...]:
        """Distinct words in their order, without stop words, punctuation and what was cut off."""
        found: dict[str, str] = {}
        for word in self.words:
            if word.positions[-1] < self.end and _is_content(word.text):
                found.setdefault(word.text.lower(), word.text)
        return tuple(found.values())

    def columns(self, word: str) -> list[int]:
        """Token positions of every occurrence of a word or phrase, in any case.

        Raises InputError for what is not in the prompt, was cut off, or is only stop words and punctuation.
        """
        found = self._find(word)
        offered = ", ".join(self.content_words())
        hint = f" Choose from: {offered}." if offered else ""
        if not found:
            raise InputError(f"The word {word!r} is not in the prompt.{hint}")
        if not any(_is_content(part.text) for part in _split(self.tokenizer, word)):
            raise InputError(f"The word {word!r} names nothing to look for.{hint}")
        kept = [positions for positions in found if positions[-1] < self.end]
        if not kept:
            raise InputError(
                f"The word {word!r} is cut off: this model reads {self.end + 1} tokens. Shorten the prompt."
            )
        return sorted({position for positions in kept for position in positions})

    def _find(self, word: str) -> list[list[int]]:
        wanted = [w.text.lower() for w in _split(self.tokenizer, word)] if isinstance(word, str) else []
        texts = [w.text.lower() for w in self.words]
        starts = [i for i in range(len(texts)) if wanted and texts[i : i + len(wanted)] == wanted]
        return [[p for w in self.words[i : i + len(wanted)] for p in w.positions] for i in starts]


def read_prompt(tokenizer, prompt: str) -> PromptWords:
    """Split a prompt. Raises InputError if there is nothing in it."""
    words = _split(tokenizer, prompt) if isinstance(prompt, str) else ()
    if not words:
        raise InputError("The prompt is empty: write a few words to see where they are looked at.")
    end = min(words[-1].positions[-1] + 1, tokenizer.model_max_length - 1)
    return PromptWords(prompt, words, end, tokenizer)


def _split(tokenizer, text: str) -> tuple[Word, ...]:
    encoded = tokenizer(text, return_offsets_mapping=True, truncation=False, verbose=False)
    spans: dict[int, list[tuple[int, int, int]]] = {}
    pairs = zip(encoded.word_ids(0), encoded["offset_mapping"], strict=True)
    for position, (index, span) in enumerate(pairs):
        if index is not None:
            spans.setdefault(index, []).append((position, *span))
    return tuple(
        Word(text[pieces[0][1] : pieces[-1][2]], tuple(position for position, _, _ in pieces))
        for pieces in spans.values()
    )


def _is_content(text: str) -> bool:
    # The tokenizer splits "church's" into "church" and "'s".
    return text.lower() not in STOP_WORDS and text[0].isalnum()
