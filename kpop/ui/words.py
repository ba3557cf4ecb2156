"""What step 1 says of words: how the model reads them, which it knows, what is near, what is sensitive."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from html import escape

from .. import models
from ..config import is_style, names
from ..errors import InputError
from ..model_table import recommended
from ..presets import are_sensitive, asked_sensitive, list_presets
from ..run_texts import style_beside_objects
from .pictures import notice
from .studio import Studio

SUGGESTED = 6  # for each word to forget
MOST_TOLD = 4  # words read out


def read_out(studio: Studio, word: str) -> str:
    """HTML: “church” as its tokens."""
    tokens = "".join(f"<kbd>{escape(token)}</kbd>" for token in models.tokens_of(studio.pipe(), word))
    return f"“{escape(word)}” as {tokens}"


def typed_line(studio: Studio, text: str) -> str:
    """HTML under a field while a word is being typed: its tokens, and known words where it is none yet."""
    text = " ".join(str(text or "")[:80].split())
    if not text:
        return ""
    told = f"The model reads {read_out(studio, text)}"
    unknown = models.unknown_words(studio.pipe(), text)
    if not unknown:
        return f'<p class="fine typed">{told}.</p>'
    known, word = models.known_words(studio.pipe()), unknown[-1]
    near = [other for other in known if other.startswith(word)][:3]
    near += [other for other in difflib.get_close_matches(word, known, n=3, cutoff=0.6) if other not in near]
    hint = f" Near it: {', '.join(map(escape, near[:3]))}." if near else ""
    return f'<p class="fine typed">{told}, and does not know it.{hint}</p>'


def check_words(studio: Studio, concepts: tuple, siblings: tuple) -> str:
    """HTML: how the model reads the concepts, or what is wrong with which word, nearest words to press."""
    if not concepts:
        return notice("Nothing to forget yet", "Pick a word above, or one of the ready-made sets below.")
    pipe = studio.pipe()
    first = [names(concept)[0] for concept in concepts]
    both = {name.lower() for name in first} & {names(concept)[0].lower() for concept in siblings}
    wrong = {f"“{name}” stands on both sides. Remove it from one.": [(name, "")] for name in sorted(both)}
    for name in [name for concept in (*concepts, *siblings) for name in names(concept)]:
        try:
            models.check_text(pipe, name)
        except InputError as error:
            unknown = models.unknown_words(pipe, name)[:1]
            wrong[str(error)] = [
                (name, name.lower().replace(word, near))
                for word in unknown
                for near in models.nearest_words(pipe, word, 3)
            ]
    if wrong:
        lines = "".join(f"<li>{escape(line)}{_instead(swaps)}</li>" for line, swaps in wrong.items())
        return f'<div class="notice error"><b>Please check</b><ul>{lines}</ul></div>'
    told = ", ".join(read_out(studio, name) for name in first[:MOST_TOLD])
    more = " …" if len(first) > MOST_TOLD else ""
    if models.known_words(pipe):
        said = f'<span class="tick">✓</span> The model knows it and reads {told}{more}.'
    else:  # any word has tokens: whether the model ever saw it, only a picture tells
        count = sum(len(models.tokens_of(pipe, name)) for name in first)
        it = "it" if len(first) == 1 else "them"
        said = (
            f"The model reads {told}{more}: {count} token{'' if count == 1 else 's'}. "
            f"Draw {it} to see whether the model knows {it}."
        )
    line = f'<p class="fine knows">{said}</p>' + left_out(studio.model, concepts, siblings)
    apart = style_beside_objects(studio.model, concepts)
    line += notice("A style and an object", apart) if apart else ""
    return line + (warned() if sensitive(studio, concepts) else "")


def left_out(model: str, concepts: tuple, siblings: tuple) -> str:
    """HTML: what is kept where nothing is named, or what is not, where that matters; "" else."""
    own = recommended(model, concepts).get("retain", ())
    if not siblings and own:
        return f'<p class="fine">Nothing is named to keep: the default settings keep {_first_of(own)}.</p>'
    if not siblings:
        return '<p class="fine">Nothing is named to keep: what is near may be forgotten too.</p>'
    if len(concepts) == 1:
        return ""
    kept = {name.lower() for concept in siblings for name in names(concept)}
    left = [word for word in own if word.lower() not in kept]
    if own and not left:
        return ""
    empty = f": {_first_of(left)}. Leave it empty to keep all {len(own)}."
    mend = empty if own else ". Name all that must stay."
    return (
        f'<p class="fine">{len(concepts)} words to forget take along much of what “Keep these” does not '
        f"name{mend}</p>"
    )


def _first_of(told: Sequence[str]) -> str:
    more = f" and {len(told) - MOST_TOLD} more" if len(told) > MOST_TOLD else ""
    return ", ".join(map(escape, told[:MOST_TOLD])) + more


def _instead(swaps) -> str:
    buttons = (
        f'<button type="button" class="instead" data-word="{escape(word, quote=True)}" '
        f'data-near="{escape(near, quote=True)}">{_told(near)}</button>'
        for word, near in swaps
    )
    return f'<span class="insteads">{"".join(buttons)}</span>' if swaps else ""


def _told(near: str) -> str:
    return f"take “{escape(near)}”" if near else "do not keep it"


def instead(field: list[str] | None, word: str, near: str) -> list[str]:
    """The field with a word replaced, once, its synonyms kept."""
    found = []
    for text in field or []:
        parts = [near if part.strip() == word else part.strip() for part in str(text).split("|")]
        found.append(" | ".join(dict.fromkeys(parts)))
    return list(dict.fromkeys(found))


def without(field: list[str] | None, word: str) -> list[str]:
    """The field without the concept of that name."""
    return [text for text in field or [] if str(text).split("|")[0].strip().lower() != word]


def warned() -> str:
    """HTML: what to know before sensitive pictures are looked at."""
    return (
        '<div class="notice"><b>Sensitive</b><p>What the model draws of this is blurred: press a picture to '
        "see it. The key of such a run brings the pictures back; keep it to yourself.</p></div>"
    )


def sensitive(studio: Studio, concepts: tuple) -> bool:
    """Whether a concept is one that a preset marks as sensitive."""
    return are_sensitive(concepts, studio.offered_presets())


def veil(runs: Sequence, prompts: Sequence[str]) -> str:
    """CSS classes of what runs draw of prompts: "" where nothing is sensitive, "veiled" where all but
    sanitized and kept pictures are covered until they are pressed, "veiled whole" where those are, too: one
    of the runs does not forget what a prompt asks for.
    """
    every = list_presets()
    asked = [preset for prompt in prompts for preset in asked_sensitive(prompt, every)]
    if any(not are_sensitive(run.config.concepts, [preset]) for preset in asked for run in runs):
        return "veiled whole"
    return "veiled" if asked or any(are_sensitive(run.config.concepts, every) for run in runs) else ""


def covered(variant: str, classes: str) -> bool:
    """Whether a picture of that variant is covered under the classes of `veil`."""
    return bool(classes) and ("whole" in classes or variant not in ("sanitized", "kept"))


def suggested(studio: Studio, concepts: tuple, keep: list[str], candidates: list[str]) -> list[str]:
    """`keep` and the candidates whose text the model reads most like the concepts'.

    None that is sensitive; a style only beside a style to forget. Raises InputError when nothing is chosen.
    """
    if not concepts:
        raise InputError("Choose first what to forget: siblings are what is near to it.")
    texts, most = [name for concept in concepts for name in names(concept)], SUGGESTED * len(concepts)
    told, offered = {word.lower() for word in (*texts, *keep)}, studio.offered_presets()
    styled = any(map(is_style, texts))
    new = [w for w in candidates if w.lower() not in told and (styled or not is_style(w))]
    left = [word for word in new if not are_sensitive((word,), offered) and readable(studio, word)]
    return [*keep, *models.by_meaning(studio.pipe(), texts, left)[:most]] if left else keep


def followed(studio: Studio, forget: tuple, keep: tuple, put_forget: tuple, put_keep: tuple) -> tuple:
    """What to keep beside new words to forget: the model's own list for them, where it has one, every word is
    known, and `keep` is still what the page put there with other words; () where `keep` is to stay.
    """
    words = [name for concept in forget for name in names(concept)]
    if not words or forget == put_forget or keep != put_keep:
        return ()
    known = all(readable(studio, word) for word in words)
    return recommended(studio.model, forget).get("retain", ()) if known else ()


def readable(studio: Studio, text: str, model: str | None = None) -> bool:
    """Whether a model (default: the app's) knows every word of a text."""
    try:
        models.check_text(studio.pipe(model), text)
    except InputError:
        return False
    return True
