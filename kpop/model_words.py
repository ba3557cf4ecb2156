"""Words and a base model: which it knows, how a text is encoded, what is said about one it never saw."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import InputError
from .model_table import words_of

if TYPE_CHECKING:
    import torch
    from diffusers import StableDiffusionPipeline

KPOP_FIELDS = "_kpop_source"  # attribute of a pipeline that remembers where it came from


def known_words(pipe: StableDiffusionPipeline) -> list[str]:
    """Words the model was trained on, from words.json in its folder; empty where there is no such list."""
    folder = getattr(pipe, KPOP_FIELDS, {}).get("folder")
    return sorted(words_of(Path(folder))) if folder else []


def check_text(pipe: StableDiffusionPipeline, text: str) -> None:
    """Raises InputError when the text does not fit the text encoder or holds a word the model never saw."""
    if not isinstance(text, str):
        raise InputError(f"A prompt must be a text, not {type(text).__name__}.")
    length = len(pipe.tokenizer(text[:10_000], truncation=False, verbose=False)["input_ids"])
    most = pipe.tokenizer.model_max_length
    if length > most or len(text) > 10_000:
        raise InputError(
            f"The text {text[:30]!r}... takes {length} tokens; this model reads {most}. Shorten it."
        )
    for word in unknown_words(pipe, text)[:1]:
        near = ", ".join(repr(other) for other in nearest_words(pipe, word, 3))
        raise InputError(f"This model does not know the word {word!r}. Nearest words it knows: {near}.")


def unknown_words(pipe: StableDiffusionPipeline, text: str) -> list[str]:
    """Words of a text that the model was never trained on; none where it has no word list."""
    known = set(known_words(pipe))
    words = re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.lower()) if known else []
    return [word for word in words if word not in known and not word.isdigit()]


def nearest_words(pipe: StableDiffusionPipeline, word: str, count: int) -> list[str]:
    """Known words spelt most like `word`, filled up with those whose text states are nearest by cosine."""
    known = known_words(pipe)
    found = difflib.get_close_matches(word, known, n=count, cutoff=0.7)
    rest = [other for other in known if other not in found]
    if len(found) < count and rest:
        found += by_meaning(pipe, [word], rest)[: count - len(found)]
    return found


def by_meaning(pipe: StableDiffusionPipeline, texts: Sequence[str], others: Sequence[str]) -> list[str]:
    """`others`, nearest first: cosine of whole text states, around their mean, to the nearest of `texts`."""
    import torch

    others = list(others)
    parts = [encode(pipe, others[i : i + 64]) for i in range(0, len(others), 64)]
    states = torch.cat(parts).float().flatten(1)
    centre = states.mean(0)
    targets = encode(pipe, list(texts)).float().flatten(1) - centre
    cosines = torch.nn.functional.cosine_similarity((states - centre)[:, None], targets[None], dim=-1)
    return [others[i] for i in cosines.amax(1).argsort(descending=True).tolist()]


def tokens_of(pipe: StableDiffusionPipeline, text: str) -> list[str]:
    """The pieces the tokenizer cuts a text into, as they are read; those that go on a word begin with "-"."""
    found, within = [], False
    for token in pipe.tokenizer.tokenize(text):
        ends = token.endswith("</w>")
        piece = token.removesuffix("</w>")
        found.append(f"-{piece}" if within else piece)
        within = not ends
    return found


def encode(pipe: StableDiffusionPipeline, texts: list[str]) -> torch.Tensor:
    """Text states C of the texts, [len(texts), 77, d_c], as the U-Net reads them."""
    import torch

    tokenizer, encoder = pipe.tokenizer, pipe.text_encoder
    tokens = tokenizer(
        list(texts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    mask = None
    if getattr(encoder.config, "use_attention_mask", False):
        mask = tokens.attention_mask.to(encoder.device)
    with torch.no_grad():
        return encoder(tokens.input_ids.to(encoder.device), attention_mask=mask)[0]
