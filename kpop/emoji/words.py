"""Which words the captions used, how often, and which objects they led to."""

import re
from collections import Counter, defaultdict

from kpop.emoji.scenes import Scene


def count_words(scenes: list[Scene], shown: int = 5) -> dict[str, dict]:
    """{word: {"count": n, "objects": {object: n, ...}}}, the `shown` commonest of single-object scenes."""
    counts, objects = Counter(), defaultdict(Counter)
    for scene in scenes:
        for word in set(re.findall(r"\w+", scene.caption.lower())):
            counts[word] += 1
            if len(scene.words) == 1:
                objects[word][scene.words[0]] += 1
    return {
        word: {"count": count, "objects": dict(objects[word].most_common(shown))}
        for word, count in counts.items()
    }
