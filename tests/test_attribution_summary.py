"""The computed sentences about heads, on literal maps: who looked, left or stayed; what a flat map says."""

from pathlib import Path

import pytest
import torch
from attribution_pipelines import literal_maps
from PIL import Image, ImageDraw

from kpop import InputError
from kpop.attribution import Attribution
from kpop.attribution_key import key_use
from kpop.attribution_measures import find_object
from kpop.attribution_summary import looking_heads, lost_heads, staying_heads, summary

BLANK = Image.new("RGB", (64, 64), (120, 160, 200))
CHURCH = BLANK.copy()
ImageDraw.Draw(CHURCH).rectangle((16, 16, 47, 47), fill=(200, 40, 40))
SIZE = (8, 8)
INSIDE = torch.zeros(SIZE, dtype=torch.bool)  # the church of CHURCH
INSIDE[2:6, 2:6] = True
EVEN = torch.full(SIZE, 0.1)
AT_IT = torch.where(INSIDE, 0.2, 0.05)
BESIDE = torch.where(INSIDE, 0.05, 0.2)
FAINT = torch.where(INSIDE, 0.12, 0.1)  # a fifth more: noise of a small map reaches as far
COMB = torch.where(INSIDE & (torch.arange(8) % 2 == 0), 0.3, 0.05)  # every other column of the object


def watched(variant, *layers, key=0.0, image=None):
    """Literal maps of "church": of a church in all pictures but the sanitized one."""
    return literal_maps(variant, layers, key, image or (BLANK if variant == "sanitized" else CHURCH))


def test_the_pictures_of_these_tests():
    assert torch.equal(find_object(CHURCH, SIZE), INSIDE) and find_object(BLANK, SIZE) is None


def test_a_head_that_left_one_that_stayed_and_those_that_never_looked():
    original = watched("original", [AT_IT, AT_IT, BESIDE, EVEN, FAINT])
    sanitized = watched("sanitized", [EVEN, AT_IT, BESIDE, EVEN, BESIDE], image=CHURCH)
    assert looking_heads(original, "church", INSIDE).tolist() == [True, True, False, False, False]
    assert staying_heads(original, sanitized, "church", INSIDE).tolist() == [False, True] + [False] * 3
    assert lost_heads(original, sanitized, "church", INSIDE).tolist() == [True] + [False] * 4
    assert summary(original, sanitized, None, "church", INSIDE) == (
        "Reading “church”, 2 of 5 heads look at the object. "
        "In the sanitized picture 1 has left the place and looks all over the picture; 1 still looks there."
    )


@pytest.mark.parametrize("mask", [INSIDE, None])
def test_half_of_pull_pattern_and_share_must_be_left(mask):
    weaker = torch.where(INSIDE, 0.14, 0.1)  # pull 1/6 of formerly 3/5, with the very same pattern
    then = [AT_IT, weaker, COMB, 0.4 * AT_IT, 0.6 * AT_IT]
    original = watched("original", [AT_IT] * 5, [AT_IT] * 5).select(layer="down")
    sanitized = watched("sanitized", then, [EVEN] * 5).select(layer="down")
    assert staying_heads(original, sanitized, "church", mask).tolist() == [True, False, True, False, True]


def test_a_pull_with_another_pattern_is_no_staying():
    half = torch.where(INSIDE & (torch.arange(8)[:, None] < 4), 0.4, 0.05)  # upper half of the object
    other = half.flip(0)
    lost = lost_heads(watched("original", [half]), watched("sanitized", [other]), "church", INSIDE)
    assert lost.tolist() == [True]
    said = summary(watched("original", [half]), watched("sanitized", [other]), None, "church", INSIDE)
    assert said.endswith("it has left the place and looks there in another pattern.")


def test_all_uniform_maps_neither_stay_nor_leave():
    original, sanitized = watched("original", [EVEN, EVEN]), watched("sanitized", [EVEN, EVEN])
    recovered = watched("recovered", [EVEN, EVEN], key=0.5)
    for mask in (INSIDE, None):
        assert not looking_heads(original, "church", mask).any()
        assert not lost_heads(original, sanitized, "church", mask).any()
    assert summary(original, sanitized, recovered, "church", INSIDE) == (
        "Reading “church”, none of 2 heads looks at the object more than elsewhere. "
        "The sanitized picture shows no object. "
        "With the key, 50 % of the attention where the key enters goes to the key."
    )
    said = summary(original, sanitized, None, "church")
    assert said == "Reading “church”, none of 2 heads looks where the other layers do more than elsewhere."
    beside = watched("original", [BESIDE, EVEN])
    said = summary(beside, sanitized, None, "church", INSIDE)
    assert said.startswith(
        "Reading “church”, none of 2 heads looks at the object, and 1 looks beside it. The"
    )


def test_an_empty_picture_is_never_called_a_church():
    original = watched("original", [AT_IT, AT_IT])
    same = watched("sanitized", [AT_IT, AT_IT])
    assert summary(original, same, None, "church", INSIDE).endswith(
        "In the sanitized picture both still look at its place, where nothing is drawn now."
    )
    gone = watched("sanitized", [EVEN, EVEN])
    recovered = watched("recovered", [AT_IT, EVEN], key=0.25, image=BLANK)
    assert summary(original, gone, recovered, "church", INSIDE).endswith(
        "In the sanitized picture, which shows no object, both have left the place and look all over the "
        "picture. With the key 1 of them looks there again, and 25 % of the attention where the key enters "
        "goes to the key."
    )
    kept = watched("sanitized", [AT_IT, AT_IT], image=CHURCH)
    assert summary(original, kept, None, "church", INSIDE).endswith("In the sanitized picture both still do.")


def test_where_the_attention_to_the_word_went():
    original = watched("original", [AT_IT, AT_IT, AT_IT])
    sanitized = watched("sanitized", [0.1 * AT_IT] * 3)
    recovered = watched("recovered", [AT_IT, AT_IT, EVEN])
    assert summary(original, sanitized, recovered, "church", INSIDE) == (
        "Reading “church”, 3 of 3 heads look at the object. "
        "In the sanitized picture, which shows no object, all 3 have left the place: most of their attention "
        "to the word (8.8 % to 0.9 %) moved to the end of the prompt. "
        "With the key 2 of them look at it again."
    )
    partly = watched("sanitized", [0.1 * AT_IT, 0.1 * AT_IT, EVEN])
    said = summary(original, partly, None, "church", INSIDE)
    assert "all 3 have left the place: for 2 of them most of their attention" in said


@pytest.mark.parametrize(
    ("asked", "mechanism", "said"),
    [
        ("own", "concat", "With the key both look at it again, and 25 % of the attention where the key"),
        (
            "castle",
            "concat",
            "With the key of “castle” both look at it again, and 25 % of the attention where",
        ),
        (Path("/a/b/x.safetensors"), "concat", "With the key file x.safetensors both look at it again, and"),
    ],
)
def test_the_sentence_names_the_key(asked, mechanism, said):
    original, sanitized = watched("original", [AT_IT, AT_IT]), watched("sanitized", [EVEN, EVEN])
    maps = literal_maps("recovered", [[AT_IT, AT_IT]], 0.25, CHURCH, key_use(asked, mechanism))
    assert said in summary(original, sanitized, maps, "church", INSIDE)


def test_without_a_key_nothing_is_called_recovered():
    original, sanitized = watched("original", [AT_IT, AT_IT]), watched("sanitized", [EVEN, EVEN])
    for then, said in ((EVEN, "Without a key none of them looks"), (AT_IT, "Without a key both look")):
        maps = literal_maps("recovered", [[then, then]], 0, CHURCH, key_use("own", None))
        told = summary(original, sanitized, maps, "church", INSIDE)
        assert told.endswith(f"{said} at it again.") and maps.title == "no key"
    still = watched("sanitized", [AT_IT, AT_IT])
    maps = literal_maps("recovered", [[AT_IT, AT_IT]], 0, CHURCH, key_use(None, None))
    assert summary(original, still, maps, "church").endswith("The last picture is drawn without a key.")


def test_the_key_takes_its_share_from_every_word_alike():
    original = watched("original", [AT_IT])
    recovered = watched("recovered", [AT_IT], key=0.8)  # the word holds a fifth of what it held
    assert staying_heads(original, recovered, "church", INSIDE).tolist() == [True]


def test_layers_are_judged_one_by_one():
    original = watched("original", [AT_IT, BESIDE], [BESIDE, AT_IT])  # each head's mean over layers is even
    sanitized = watched("sanitized", [EVEN, BESIDE], [BESIDE, AT_IT], image=CHURCH)
    assert looking_heads(original, "church", INSIDE).tolist() == [True, False, False, True]
    assert lost_heads(original, sanitized, "church", INSIDE).tolist() == [True, False, False, False]
    said = summary(original, sanitized, None, "church", INSIDE)
    assert said.startswith("Reading “church”, 2 of 4 heads in 2 layers look at the object. In the sanitized ")
    up = [maps.select(layer="up") for maps in (original, sanitized)]
    assert summary(*up, None, "church", INSIDE) == (
        "Reading “church”, 1 of 2 heads looks at the object. In the sanitized picture it still does."
    )


def test_without_a_mask_a_head_is_asked_about_the_place_of_the_other_layers():
    right = torch.zeros(SIZE)
    right[2:6, 6:] = 0.3
    original = watched("original", [AT_IT, right, EVEN], [AT_IT, AT_IT, EVEN])
    assert looking_heads(original, "church").tolist() == [True, False, False, True, True, False]
    assert looking_heads(original.select(layer="down"), "church").tolist() == [True, False, False]
    alone = watched("original", [AT_IT, right])
    assert looking_heads(alone, "church").tolist() == [False, False]  # uneven, and nobody else to ask
    gone = watched("sanitized", [EVEN, right, EVEN], [AT_IT, EVEN, EVEN])
    assert lost_heads(original, gone, "church").tolist() == [True, False, False, False, True, False]
    assert summary(original, gone, None, "church") == (
        "Reading “church”, 3 of 6 heads in 2 layers look where the other layers do. "
        "In the sanitized picture 2 have left the place and look all over the picture; 1 still looks there."
    )


def test_maps_of_other_seeds_are_not_compared():
    one = watched("original", [AT_IT])
    other = Attribution(**{**one.__dict__, "seed": 1})
    with pytest.raises(InputError, match="one seed"):
        summary(one, other, None, "church")
