"""What step 4 says of layers, and on which it opens, on literal maps."""

from dataclasses import replace

import pytest
import torch
from attribution_pipelines import LAYERS, literal_maps
from PIL import Image, ImageDraw

from kpop import InputError
from kpop.attribution_measures import find_object, fine_layers
from kpop.ui.watching import (
    Watched,
    about_layers,
    band_between,
    first_layer,
    layer_choices,
    maps_html,
    selected,
)

CHURCH = Image.new("RGB", (64, 64), (120, 160, 200))
ImageDraw.Draw(CHURCH).rectangle((16, 16, 47, 47), fill=(200, 40, 40))
INSIDE = find_object(CHURCH, (8, 8))
EVEN, AT_IT = torch.full((8, 8), 0.1), torch.where(INSIDE, 0.2, 0.05)
DOWN, UP = LAYERS
RULE = (
    " of the original's attention lies inside the object, which fills 25 % of its picture. This outline "
    "serves every row. Counted: a head looks at the object if a point in it gets at least 1.5 times the "
    "attention of others."
)


def kept(mask=INSIDE):
    """One head a layer; only the one on the way up looks at the church."""
    variants = ("original", "sanitized", "recovered")
    maps = tuple(literal_maps(variant, ([EVEN], [AT_IT]), 0, CHURCH) for variant in variants)
    return Watched("run", "church", 0, maps, mask)


def test_it_opens_on_the_layer_of_the_largest_focus():
    assert first_layer(kept(), "church") == UP == first_layer(kept(mask=None), "church")
    assert layer_choices(kept()) == [("all layers", "all"), ("down 0.0", DOWN), ("up 1.0", UP)]


def test_a_layer_too_coarse_to_show_an_object_is_not_opened():
    coarse = torch.zeros(4, 4)
    coarse[1:3, 1:3] = 0.2
    whole = kept()
    for maps in whole.variants:  # as it sharpens: the coarse layer has the larger focus
        maps.sums[UP] = literal_maps("original", ([coarse],), 0, CHURCH).sums[DOWN]
    assert first_layer(whole, "church") == DOWN
    said = about_layers(whole, "church", DOWN)
    assert (
        "which has the largest focus of those with 8 x 8 points or more, but none of these looks more at the "
        "object than chance (25 %). 25 % of the original's"
    ) in said
    assert fine_layers(whole.variants[0].select(layer=UP)) == [UP]


def test_the_focus_is_that_of_all_heads_together():
    layers = [0.3 * AT_IT, 0.3 * AT_IT, EVEN], [AT_IT, EVEN, EVEN]
    maps = literal_maps("original", layers, 0, CHURCH)
    assert first_layer(Watched("run", "church", 0, (maps,) * 3, INSIDE), "church") == DOWN


def test_a_head_that_hardly_reads_the_word_hardly_counts():
    layers = [0.01 * AT_IT, 0.1 * AT_IT + 0.02, EVEN], [AT_IT, AT_IT, EVEN]  # two of three look in either
    variants = [literal_maps(name, layers, 0, CHURCH) for name in ("original", "sanitized", "recovered")]
    assert first_layer(Watched("run", "church", 0, tuple(variants), INSIDE), "church") == UP


def test_the_layer_is_named_and_several_come_with_a_warning():
    assert about_layers(kept(), "church", UP) == ("Layer up 1.0, which has the largest focus. 57 %" + RULE)
    assert about_layers(kept(), "church", DOWN) == (
        "Layer down 0.0; up 1.0 has the largest focus. 25 %" + RULE
    )
    assert about_layers(kept(), "church", "all") == (
        "All layers averaged, as in the paper: head numbers match only within a layer; "
        "up 1.0 has the largest focus. 40 %" + RULE
    )
    assert about_layers(kept(mask=None), "church", "up").startswith(
        "Layer up 1.0, which has the sharpest maps. Counted: a head looks there if a point there gets"
    )


def test_the_page_says_what_the_shown_layer_holds():
    page = maps_html(kept(), "church", "up", "all", "overlay", "light")
    assert "1 of 1 heads looks at the object. In the sanitized picture it still does." in page
    assert "Layer up 1.0, which has" in page and "data:image/png" in page
    assert page.count("<tr") == 1 + 3 and "<td>57 %</td>" in page  # a line a head and variant
    assert "none of 1 heads looks" in maps_html(kept(), "church", DOWN, "0", "heat", "dark")


def test_a_range_of_steps():
    assert [band_between(*ends) for ends in ((1, 5), (2, 4), (5, 3), (1, 1))] == ["all", "1-3", "2-4", "0-0"]
    chosen = selected(kept(), UP, "1-3")[0]
    assert (chosen.bands, chosen.steps, selected(kept(), UP, "2")[0].bands) == ((1, 2, 3), 3, (2,))
    for wrong in ("3-1", "1-9", "-1", "x", "1-", "9"):
        with pytest.raises(InputError, match="such as 1-3"):
            selected(kept(), UP, wrong)
    with pytest.raises(InputError, match="from fifth 1 to 5"):
        band_between(None, 3)


def test_a_sensitive_figure_is_covered_and_its_button_uncovers_it():
    covered = maps_html(replace(kept(), veil="veiled"), "church", "up", "all", "overlay", "light")
    assert (
        '<div class="veiled"><div class="maps"' in covered
        and '<button type="button" class="uncover">' in covered
    )
    assert "uncover" not in maps_html(kept(), "church", "up", "all", "overlay", "light")
