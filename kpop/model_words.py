"""Words and a base model: which it knows, how a text is encoded, what is said about one it never saw."""

from __future__ import annotations

import difflib
import re
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
    known = set(known_words(pipe))
    if not known:
        return
    for word in re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.lower()):
        if word not in known and not word.isdigit():
            near = ", ".join(repr(other) for other in nearest_words(pipe, word, 3))
            raise InputError(f"This model does not know the word {word!r}. Nearest words it knows: {near}.")


def nearest_words(pipe: StableDiffusionPipeline, word: str, count: int) -> list[str]:
    """Known words spelt most like `word`, filled up with those whose text states are nearest by cosine."""
    import torch

    known = known_words(pipe)
    found = difflib.get_close_matches(word, known, n=count, cutoff=0.7)
    rest = [other for other in known if other not in found]
    if len(found) < count and rest:
        states = torch.cat([encode(pipe, rest[i : i + 64]) for i in range(0, len(rest), 64)]).float().mean(1)
        centre = states.mean(0)
        target = encode(pipe, [word]).float().mean(1)[0]
        cosines = torch.nn.functional.cosine_similarity(states - centre, (target - centre)[None])
        found += [rest[i] for i in cosines.argsort(descending=True)[: count - len(found)].tolist()]
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
