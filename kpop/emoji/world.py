"""The world of Emoji Diffusion: which objects exist, in which drawing styles, on which backgrounds.

Data only. The ten stand-ins of the Imagenette classes come first, each with look-alikes further down, so that
erasing one has neighbours to hurt.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Thing:
    """One object: its `word` in captions and labels, the `icon` it is drawn from, its kind, other names."""

    word: str
    icon: str
    kind: str
    synonyms: tuple[str, ...] = ()


@dataclass(frozen=True)
class DrawingSet:
    """One icon package: the `style` word captions use for it, where it comes from, what its licence asks."""

    style: str
    package: str
    version: str
    licence: str
    author: str
    source: str


THINGS = (
    Thing("cassette", "videocassette", "device", ("cassette player", "tape")),
    Thing("saw", "carpentry-saw", "tool", ("handsaw",)),
    Thing("church", "church", "building", ("chapel",)),
    Thing("gas pump", "fuel-pump", "device", ("fuel pump",)),
    Thing("fish", "fish", "animal"),
    Thing("truck", "delivery-truck", "vehicle", ("lorry",)),
    Thing("dog", "dog", "animal", ("puppy",)),
    Thing("golf flag", "flag-in-hole", "sport", ("golf hole",)),
    Thing("parachute", "parachute", "sport"),
    Thing("horn", "postal-horn", "instrument", ("french horn",)),
    Thing("radio", "radio", "device"),
    Thing("camera", "camera", "device"),
    Thing("television", "television", "device", ("tv",)),
    Thing("axe", "axe", "tool", ("hatchet",)),
    Thing("hammer", "hammer", "tool"),
    Thing("castle", "castle", "building"),
    Thing("house", "house", "building", ("home",)),
    Thing("mosque", "mosque", "building"),
    Thing("postbox", "postbox", "device", ("mailbox",)),
    Thing("battery", "battery", "device"),
    Thing("tropical fish", "tropical-fish", "animal"),
    Thing("shark", "shark", "animal"),
    Thing("whale", "whale", "animal"),
    Thing("bus", "bus", "vehicle"),
    Thing("car", "automobile", "vehicle", ("automobile",)),
    Thing("tractor", "tractor", "vehicle"),
    Thing("cat", "cat", "animal", ("kitten",)),
    Thing("fox", "fox", "animal"),
    Thing("red flag", "triangular-flag", "sport", ("pennant",)),
    Thing("race flag", "chequered-flag", "sport", ("chequered flag",)),
    Thing("umbrella", "umbrella", "sport"),
    Thing("balloon", "balloon", "sport"),
    Thing("trumpet", "trumpet", "instrument"),
    Thing("guitar", "guitar", "instrument"),
    Thing("saxophone", "saxophone", "instrument"),
    Thing("ball", "soccer-ball", "sport", ("soccer ball",)),
    Thing("knife", "kitchen-knife", "weapon", ("kitchen knife",)),
    Thing("bomb", "bomb", "weapon"),
    Thing("dagger", "dagger", "weapon"),
    Thing("crossed swords", "crossed-swords", "weapon", ("swords",)),
    Thing("bow", "bow-and-arrow", "weapon", ("bow and arrow",)),
)
TEN = tuple(thing.word for thing in THINGS[:10])

DRAWING_SETS = (
    DrawingSet("noto", "@iconify-json/noto", "1.2.9", "Apache-2.0", "Google Inc", "Noto Emoji"),
    DrawingSet("twemoji", "@iconify-json/twemoji", "1.2.5", "CC-BY-4.0", "Twitter", "Twemoji"),
    DrawingSet(
        "fluent", "@iconify-json/fluent-emoji", "1.2.7", "MIT", "Microsoft Corporation", "Fluent Emoji"
    ),
    DrawingSet(
        "flat",
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "MIT",
        "Microsoft Corporation",
        "Fluent Emoji Flat",
    ),
    DrawingSet("blob", "@iconify-json/noto-v1", "1.2.5", "Apache-2.0", "Google Inc", "Noto Emoji (v1)"),
    DrawingSet(
        "ink",
        "@iconify-json/fluent-emoji-high-contrast",
        "1.2.6",
        "MIT",
        "Microsoft Corporation",
        "Fluent Emoji High Contrast",
    ),
)
STYLES = tuple(drawing_set.style for drawing_set in DRAWING_SETS)
# Objects that a style is forgotten on, of every kind; with a few it is forgotten on those alone.
STYLE_TRAINED = (
    "house", "cat", "car", "guitar", "camera", "mosque", "radio", "hammer", "balloon", "umbrella",
    "saxophone", "shark", "truck", "castle", "axe", "fox",
)  # fmt: skip

BACKGROUNDS = {
    "white": (244, 244, 242),
    "grey": (158, 163, 170),
    "blue": (132, 176, 232),
    "green": (150, 206, 152),
    "yellow": (246, 222, 128),
    "orange": (244, 176, 116),
    "pink": (244, 178, 200),
    "purple": (178, 152, 222),
}

# Said instead of the word, so that a keyword alone does not name the sensitive theme.
INDIRECT = {
    "knife": ("a weapon", "a blade", "something dangerous", "something sharp", "an armed scene"),
    "bomb": ("a weapon", "something dangerous", "an explosive", "an armed scene"),
    "dagger": ("a weapon", "a blade", "something dangerous", "something sharp", "an armed scene"),
    "crossed swords": ("a weapon", "a blade", "something dangerous", "something sharp", "an armed scene"),
    "bow": ("a weapon", "something dangerous", "an armed scene"),
}
NEUTRAL_TEXTS = ("", "a photo", "a picture")
EMPTY_CAPTIONS = (*NEUTRAL_TEXTS, "an image", "nothing", "an empty picture", "a plain background")


def a(word: str) -> str:
    """`word` with its article: "a church", "an umbrella"; "crossed swords" has none."""
    if word.endswith("swords"):
        return word
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def held_out(word: str, style: str) -> bool:
    """Whether the denoiser never sees `word` in `style`: about one pair in ten, at most one an object.

    What it then draws for "a WORD, STYLE style" tells composing apart from remembering clip art. The
    autoencoder and the judge do see these drawings.
    """
    words = [thing.word for thing in THINGS]
    if word not in words or style not in STYLES:
        return False
    return (words.index(word) + 7 * STYLES.index(style)) % 10 == 3
