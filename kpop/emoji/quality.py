"""How well Emoji Diffusion draws, by its judge, with fixed seeds. Each part can be measured alone."""

import time
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from kpop.emoji.alignment import matching
from kpop.emoji.world import BACKGROUNDS, NEUTRAL_TEXTS, STYLES, TEN, THINGS, a, held_out

PAIRS = (
    ("dog", "church"),
    ("fish", "truck"),
    ("cat", "balloon"),
    ("house", "car"),
    ("horn", "umbrella"),
    ("castle", "bus"),
    ("fox", "guitar"),
    ("camera", "ball"),
    ("saw", "cassette"),
    ("bomb", "tractor"),
)
WORDS = tuple(thing.word for thing in THINGS)
Draw = Callable[[Sequence[str], Sequence[int]], list[Image.Image]]


def objects(draw: Draw, judge, seeds: Sequence[int]) -> dict:
    """Judge's top-1 in percent for "a WORD": each object, the mean over all and over the ten stand-ins."""
    started = time.perf_counter()
    images = draw([a(word) for word in WORDS], seeds)
    seconds = (time.perf_counter() - started) / len(images)
    found = np.array([labels[0] for labels in judge.top_k(images, 1)]).reshape(len(WORDS), len(seeds))
    each = {word: 100.0 * float((row == word).mean()) for word, row in zip(WORDS, found, strict=True)}
    taken = {
        word: sorted({str(other) for other in row if other != word})[:4]
        for word, row in zip(WORDS, found, strict=True)
    }
    return {
        "each": each,
        "all": float(np.mean(list(each.values()))),
        "ten": float(np.mean([each[word] for word in TEN])),
        "mistaken_for": taken,
        "seconds_per_image": round(seconds, 3),
    }


def held_out_pairs(draw: Draw, judge, seeds: Sequence[int]) -> dict:
    """(object, style) pairs the denoiser never saw: object right, style right, in percent; half the seeds."""
    pairs = [(word, style) for word in WORDS for style in STYLES if held_out(word, style)]
    seeds = seeds[: max(1, len(seeds) // 2)]
    images = draw([f"{a(word)}, {style} style" for word, style in pairs], seeds)
    names, (styles, _) = judge.top_k(images, 1), judge.style_and_background(images)
    told = [pair for pair in pairs for _ in seeds]
    return {
        "pairs": len(pairs),
        "object": _share(labels[0] == word for labels, (word, _) in zip(names, told, strict=True)),
        "style": _share(got == style for got, (_, style) in zip(styles, told, strict=True)),
    }


def styles(draw: Draw, judge, seeds: Sequence[int]) -> dict:
    """Style of "a WORD, STYLE style" by the judge, in percent; words the model saw in that style, in turn."""
    prompts, told = [], []
    for style in STYLES:
        known = [word for word in WORDS if not held_out(word, style)]
        chosen = known[:: max(1, len(known) // 12)]
        prompts += [f"{a(word)}, {style} style" for word in chosen]
        told += [style] * len(chosen)
    seeds = seeds[: max(1, len(seeds) // 4)]
    got, _ = judge.style_and_background(draw(prompts, seeds))
    told = [style for style in told for _ in seeds]
    each = {s: _share(g == s for g, t in zip(got, told, strict=True) if t == s) for s in STYLES}
    return {"each": each, "all": float(np.mean(list(each.values())))}


def backgrounds(draw: Draw, judge, seeds: Sequence[int]) -> dict:
    """Background of "a WORD on a COLOUR background" by the judge, in percent, over the ten stand-ins."""
    prompts = [f"{a(word)} on {a(colour)} background" for colour in BACKGROUNDS for word in TEN]
    seeds = seeds[: max(1, len(seeds) // 5)]
    _, got = judge.style_and_background(draw(prompts, seeds))
    told = [colour for colour in BACKGROUNDS for _ in range(len(TEN) * len(seeds))]
    each = {c: _share(g == c for g, t in zip(got, told, strict=True) if t == c) for c in BACKGROUNDS}
    return {"each": each, "all": float(np.mean(list(each.values())))}


def two_objects(draw: Draw, judge, seeds: Sequence[int]) -> dict:
    """Both objects of "a ONE and a TWO" among the judge's first two, and at least one of them, in percent."""
    images = draw([f"{a(one)} and {a(two)}" for one, two in PAIRS], seeds)
    found = [set(labels) for labels in judge.top_k(images, 2)]
    told = [set(pair) for pair in PAIRS for _ in seeds]
    return {
        "both": _share(pair <= got for pair, got in zip(told, found, strict=True)),
        "one": _share(bool(pair & got) for pair, got in zip(told, found, strict=True)),
    }


def neutral(draw: Draw, judge, seeds: Sequence[int]) -> dict:
    """What the judge finds first for each neutral text, in percent: the leak no erasure can beat.

    Ten times as many pictures a text as seeds given, from seeds that go on counting.
    """
    many = [seeds[0] + i for i in range(10 * len(seeds))]
    names = [labels[0] for labels in judge.top_k(draw(list(NEUTRAL_TEXTS), many), 1)]
    found = {}
    for i, text in enumerate(NEUTRAL_TEXTS):
        part = names[i * len(many) : (i + 1) * len(many)]
        found[text] = {name: 100.0 * part.count(name) / len(part) for name in sorted(set(part))}
    return {"found": found, "pictures_a_text": len(many)}


def distance(draw: Draw, judge, seeds: Sequence[int]) -> dict:
    """Fréchet distance on judge features (not an FID) between generated pictures and composed scenes.

    Beside it the distance of as many composed scenes that the reference does not hold: what the sample size
    alone gives. The captions are those of the latter. "alignment": how well the
    generated pictures fit them, by the judge's own CLIP.
    """
    reference = judge.reference()
    captions = reference["captions"]
    # Every seed serves its share of the captions, so that pictures are drawn in batches.
    count = len(seeds)
    images = [image for i, seed in enumerate(seeds) for image in draw(captions[i::count], [seed])]
    captions = [caption for i in range(count) for caption in captions[i::count]]
    features = judge.features(images)
    fit = {"alignment": matching(judge.alignment(images, captions))} if judge.has_alignment else {}
    return fit | {
        "generated": frechet(
            features.mean(0), np.cov(features.T), reference["mean"], reference["covariance"]
        ),
        "scenes": reference["scenes_distance"],
        "pictures": len(captions),
    }


def speed(draw: Draw, judge, seeds: Sequence[int]) -> dict:
    """Seconds a picture on this machine, the embedded model loaded in fp32 and in bf16."""
    from kpop import generation, models

    prompts, found = [a(word) for word in TEN], {}
    for dtype in ("fp32", "bf16"):
        pipe = models.load_pipeline("emoji", dtype=dtype)
        generation.generate(pipe, prompts[:1], seeds[:1])
        started = time.perf_counter()
        generation.generate(pipe, prompts, seeds[:4])
        found[dtype] = round((time.perf_counter() - started) / (len(prompts) * len(seeds[:4])), 3)
    return found


def frechet(mean_1: np.ndarray, cov_1: np.ndarray, mean_2: np.ndarray, cov_2: np.ndarray) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), of two Gaussians (Dowson and Landau 1982)."""
    roots = np.sqrt(np.linalg.eigvals(cov_1 @ cov_2).real.clip(min=0))
    return float(((mean_1 - mean_2) ** 2).sum() + np.trace(cov_1) + np.trace(cov_2) - 2 * roots.sum())


PARTS = {
    "objects": objects,
    "held_out_pairs": held_out_pairs,
    "styles": styles,
    "backgrounds": backgrounds,
    "two_objects": two_objects,
    "neutral": neutral,
    "distance": distance,
    "speed": speed,
}


def measure(pipe, parts: Sequence[str], seeds: Sequence[int], on_step=None) -> dict[str, dict]:
    """The named parts of PARTS, each {"seeds": [first, last], ...figures}.

    on_step(i, n): after each of n denoising steps of what is being drawn.
    """
    from kpop.config import GenerationConfig
    from kpop.evaluation import detectors
    from kpop.generation import generate

    judge = detectors.load("emoji")
    at_once = GenerationConfig(batch_size=64 if pipe.device.type == "cuda" else None)

    def draw(prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        return generate(pipe, list(prompts), list(seeds), config=at_once, on_step=on_step)

    return {
        part: {"seeds": [seeds[0], seeds[-1]], "judge_accuracy": judge.accuracy}
        | PARTS[part](draw, judge, seeds)
        for part in parts
    }


def _share(hits) -> float:
    return 100.0 * float(np.mean(list(hits)))
