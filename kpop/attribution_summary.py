"""What the heads did with a word, in computed sentences: who looked at the object, who left, where it went.

The rule is per head and per layer (averaged over layers a map mostly shows position and border):

- A head *looks at* a place when a point there gets at least half again as much attention as one elsewhere.
  The place is the object of the original picture; where that is not known, the part of it that the heads of
  the other layers look at more than on average (shared_places).
- A head *stays* when at least half of three things is left: its pull to that place, its pattern (correlation
  with its own earlier map), and the word's share of the attention that goes to text at all.
- A head that never looked there can neither stay nor leave. A flat map looks nowhere.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from .attribution_measures import correlation, find_object, pull, shared_places
from .attribution_selection import layer_group
from .errors import InputError

if TYPE_CHECKING:
    from .attribution import Attribution

LOOKS = 1.5  # times the attention of a point elsewhere
LEAST_PULL = (LOOKS - 1) / (LOOKS + 1)
KEPT = 0.5
PARTS = {
    "start": "the start token",
    "other_words": "the other words",
    "padding": "the end of the prompt",
    "hidden_prompt": "the key",
}
ENTERS = {"down": "on the way down", "middle": "in the middle", "up": "on the way up"}


def looking_heads(maps: Attribution, word: str, mask: torch.Tensor | None = None) -> torch.Tensor:
    """bool [n]: heads that look at the place of `word`; the heads of every selected layer, in their order.

    mask: bool [H, W], the object, which is then the place asked about; else each layer's of shared_places.
    """
    return _pulls(maps, maps, word, mask) >= LEAST_PULL


def staying_heads(
    first: Attribution, then: Attribution, word: str, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """bool [n]: the looking heads of `first` that in `then` still look at the same place."""
    stay = looking_heads(first, word, mask) & ~_faded(first, then, word)
    near = _pulls(first, then, word, mask) >= KEPT * _pulls(first, first, word, mask)
    pairs = zip(_by_layer(first, word), _by_layer(then, word), strict=True)
    alike = torch.cat([correlation(before, after) for before, after in pairs]) >= KEPT
    return stay & near & alike


def lost_heads(
    first: Attribution, then: Attribution, word: str, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """bool [n]: the looking heads of `first` that in `then` do so no more."""
    return looking_heads(first, word, mask) & ~staying_heads(first, then, word, mask)


def summary(
    original: Attribution,
    sanitized: Attribution,
    recovered: Attribution | None,
    word: str,
    mask: torch.Tensor | None = None,
) -> str:
    """Two or three sentences: how many heads looked, how many left and what they do, what the key returns.

    mask: the object in the original picture; without it the pictures themselves are not spoken of. Which key
    it was, or that there was none, is said by its name (Attribution.key).
    """
    if original.seed != sanitized.seed or original.prompt != sanitized.prompt:
        raise InputError("Compare maps of one prompt and one seed.")
    pulls = _pulls(original, original, word, mask)
    gone = lost_heads(original, sanitized, word, mask)
    blank = mask is not None and find_object(sanitized.image, sanitized.size) is None
    count = int((pulls >= LEAST_PULL).sum())
    said = [_who_looked(pulls, len(original.layers), word, mask is not None)]
    if count:
        said.append(_who_left(original, sanitized, word, mask, gone, count, blank))
    elif blank:
        said.append("The sanitized picture shows no object.")
    if recovered is not None:
        said.append(_who_came_back(original, recovered, word, mask, gone))
    return " ".join(said)


def _who_looked(pulls: torch.Tensor, layers: int, word: str, known: bool) -> str:
    count, heads = int((pulls >= LEAST_PULL).sum()), len(pulls)
    where = f" in {layers} layers" if layers > 1 else ""
    place = "at the object" if known else "where the other layers do"
    if count:
        return f"Reading “{word}”, {count} of {heads} heads{where} {_look(count)} {place}."
    said = f"Reading “{word}”, none of {heads} heads{where} looks {place}"
    beside = int((pulls <= -LEAST_PULL).sum()) if known else 0
    return f"{said}, and {beside} {_look(beside)} beside it." if beside else f"{said} more than elsewhere."


def _who_left(original, sanitized, word, mask, gone: torch.Tensor, count: int, blank: bool) -> str:
    left, stay = int(gone.sum()), count - int(gone.sum())
    if not left:
        does = "does" if count == 1 else "do"
        end = f"{_look(count)} at its place, where nothing is drawn now" if blank else does
        return f"In the sanitized picture {_all(count)} still {end}."
    picture = "the sanitized picture, which shows no object," if blank else "the sanitized picture"
    who, have = (str(left) if stay else _all(left)), ("has" if left == 1 else "have")
    now = _what_instead(original, sanitized, word, mask, gone)
    rest = f"; {stay} still {_look(stay)} there" if stay else ""
    return f"In {picture} {who} {have} left the place{now}{rest}."


def _what_instead(original, sanitized, word, mask, gone: torch.Tensor) -> str:
    left = int(gone.sum())
    faded = gone & _faded(original, sanitized, word)
    if 2 * int(faded.sum()) > left:
        before, after = (_mean_budget(maps, word, faded) for maps in (original, sanitized))
        rise = {part: after[part] - before[part] for part in PARTS}
        target = max(rise, key=rise.get)
        amount = "most" if 2 * rise[target] >= before["word"] - after["word"] else "part"
        whose = "its" if left == 1 else "their"
        some = f"for {int(faded.sum())} of them " if int(faded.sum()) < left else ""
        change = f"{_percent(before['word'])} to {_percent(after['word'])}"
        return f": {some}{amount} of {whose} attention to the word ({change}) moved to {PARTS[target]}"
    now = _pulls(original, sanitized, word, mask)[gone]
    ways = {
        "elsewhere": int((now <= -LEAST_PULL).sum()),
        "all over the picture": int((now.abs() < LEAST_PULL).sum()),
        "there in another pattern": int((now >= LEAST_PULL).sum()),
    }
    way = max(ways, key=ways.get)
    if ways[way] == left:
        return f" and {_look(left)} {way}"
    return f", and most of them look {way}" if 2 * ways[way] > left else ""


def _who_came_back(original, recovered, word, mask, gone: torch.Tensor) -> str:
    left, share = int(gone.sum()), _hidden_share(recovered)
    with_it = "Without a key" if recovered.key is None else recovered.key.phrase
    to_key = f"{_percent(share)} of the attention where the key enters goes to the key"
    why = why_no_share(recovered)
    if not left:
        return f"{with_it}, {to_key}." if share else why or "The last picture is drawn without a key."
    back = int((gone & staying_heads(original, recovered, word, mask)).sum())
    blank = mask is not None and find_object(recovered.image, recovered.size) is None
    who = _all(back) if back == left else f"{back or 'none'} of them"
    they = f"{who} {_look(back or 1)} {'there' if blank or mask is None else 'at it'} again"
    if share:
        return f"{with_it} {they}, and {to_key}."
    return f"{with_it} {they}. {why}".rstrip()


def why_no_share(maps: Attribution) -> str:
    """A sentence: why no attention goes to the key in what is shown. "" where some does, or without a key."""
    if maps.key is None or maps.key.mechanism is None or maps.hidden_prompt_layers:
        return ""
    if maps.key.mechanism == "additive":
        return "This key is added to the text, so it has no share of its own."
    groups = dict.fromkeys(map(layer_group, replace(maps, layers=tuple(maps.sums)).hidden_prompt_layers))
    return f"The key does not enter here, only {' and '.join(ENTERS[g] for g in groups)}." if groups else ""


def _by_layer(maps: Attribution, word: str) -> list[torch.Tensor]:
    """Per selected layer [heads, H, W]."""
    return [replace(maps, layers=(layer,))[word].heads for layer in maps.layers]


def _pulls(first: Attribution, then: Attribution, word: str, mask: torch.Tensor | None) -> torch.Tensor:
    """[n]: how much more heads of `then` look at a place of `first`: the mask, or what is shared there."""
    places = shared_places(first, word) if mask is None else [mask] * len(first.layers)
    pairs = zip(_by_layer(then, word), places, strict=True)
    # Of an empty place every point is outside.
    return torch.cat(
        [pull(heads, place) if bool(place.any()) else 0 * heads.mean((1, 2)) for heads, place in pairs]
    )


def _faded(first: Attribution, then: Attribution, word: str) -> torch.Tensor:
    """bool [n]: less than half of the word's share is left. Of what goes to text: the key takes its part."""
    shares = []
    for maps in (first, then):
        budget = _budget(maps, word)
        shares.append(budget["word"] / (1 - budget["hidden_prompt"]).clamp_min(1e-6))
    return shares[1] < KEPT * shares[0]


def _budget(maps: Attribution, word: str) -> dict[str, torch.Tensor]:
    """Attribution.budget, [n] each, a head of a layer by itself."""
    layers = [replace(maps, layers=(layer,)).budget(word) for layer in maps.layers]
    return {part: torch.cat([layer[part] for layer in layers]) for part in layers[0]}


def _mean_budget(maps: Attribution, word: str, heads: torch.Tensor) -> dict[str, float]:
    return {part: float(values[heads].mean()) for part, values in _budget(maps, word).items()}


def _hidden_share(maps: Attribution) -> float:
    shares = maps.hidden_prompt_share()
    found = [shares[layer] for layer in maps.hidden_prompt_layers]
    return float(torch.cat(found).mean()) if found else 0.0


def _all(count: int) -> str:
    """Everyone of those just named: "it", "both", "all 5"."""
    return {1: "it", 2: "both"}.get(count, f"all {count}")


def _look(count: int) -> str:
    return "looks" if count == 1 else "look"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"
