"""Measures of attention maps, the object they are measured on, and the figures and files made of them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from attribution_pipelines import LAYERS, literal_maps
from PIL import Image, ImageDraw

from kpop import InputError
from kpop.attention_recorder import BANDS
from kpop.attribution_export import save_arrays, save_figure, save_table, to_image
from kpop.attribution_figure import Block, attribution_figure, paper_figure
from kpop.attribution_key import key_use
from kpop.attribution_measures import (
    correlation,
    dispersion,
    every_table,
    find_object,
    focus,
    head_table,
    object_mask,
    pull,
    sharpest_layer,
)
from kpop.attribution_profile import profile_figure
from kpop.attribution_views import as_blocks, draw_figures

SIDE = 64
EVEN = torch.full((8, 8), 0.1)


def test_measures_on_literal_maps():
    point, even = torch.zeros(4, 4), torch.ones(4, 4)
    point[1, 2] = 3
    assert dispersion(torch.stack([point, even])).tolist() == pytest.approx([0, 1])
    half = torch.zeros(4, 4)
    half[:, :2] = 1
    assert dispersion(half).item() == pytest.approx(0.75)  # ln 8 / ln 16
    ramp = torch.arange(16.0).reshape(4, 4)
    agreement = correlation(torch.stack([ramp, ramp, even]), torch.stack([2 * ramp + 1, -ramp, ramp]))
    assert agreement.tolist() == pytest.approx([1, -1, 0], abs=1e-6)
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[1] = True
    assert focus(torch.stack([point, even]), mask).tolist() == pytest.approx([1, 0.25])
    twice = even + mask  # 2 inside, 1 outside
    pulls = pull(torch.stack([point, even, twice, 0 * even, half]), mask)
    assert pulls.tolist() == pytest.approx([1, 0, 1 / 3, 0, 0])
    assert pull(half, ~(half > 0)).item() == -1


def scene(shape, box, colour, slope=(20, -30), noise=0, seed=0):
    """(picture, its object as bool [64, 64]): a shape on a plane of colour, drawn here and now."""
    random = np.random.default_rng(seed)
    down, across = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    plane = random.uniform(90, 170, 3) + slope[0] * down[..., None] + slope[1] * across[..., None]
    drawn = Image.new("L", (SIDE, SIDE))
    getattr(ImageDraw.Draw(drawn), shape)(box, fill=255)
    inside = np.asarray(drawn) > 0
    pixels = np.where(inside[..., None], colour, plane) + random.normal(0, 1, plane.shape) * noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), torch.from_numpy(inside)


SCENES = [
    ("rectangle", (20, 12, 39, 50), (220, 30, 30)),
    ("ellipse", (4, 30, 40, 60), (10, 10, 10)),
    ("ellipse", (26, 26, 37, 37), (255, 255, 255)),  # small
    ("rectangle", (0, 20, 30, 63), (30, 200, 60)),  # touches two borders
    ("polygon", [(32, 4), (60, 58), (4, 58)], (250, 240, 20)),
    ("polygon", [(10, 10), (54, 20), (30, 54)], (20, 30, 240)),
]


@pytest.mark.parametrize("slope", [(0, 0), (20, -30), (-35, 10)])
@pytest.mark.parametrize("noise", [0, 4])
def test_the_mask_is_the_object_of_composed_scenes(slope, noise):
    for seed, (shape, box, colour) in enumerate(SCENES):
        image, inside = scene(shape, box, colour, slope, noise, seed)
        found = find_object(image, (SIDE, SIDE))
        both = float((found & inside).sum()) / float((found | inside).sum())
        assert both > 0.95, (shape, box, both)
        large = object_mask(image.resize((512, 512), Image.Resampling.BICUBIC), (SIDE, SIDE))
        assert float((large & inside).sum()) / float((large | inside).sum()) > 0.9


def test_two_objects_are_one_mask_and_a_bare_plane_is_none():
    image, first = scene("rectangle", (6, 20, 24, 50), (220, 30, 30))
    ImageDraw.Draw(image).rectangle((40, 20, 58, 50), fill=(30, 30, 220))
    mask = find_object(image, (SIDE, SIDE))
    assert mask[:, :32].equal(first[:, :32]) and mask.sum() == 2 * first.sum()
    bare, _ = scene("rectangle", (0, 0, 0, 0), (120, 120, 120), noise=3)
    assert find_object(bare, (SIDE, SIDE)) is None


def test_a_picture_without_a_plain_background_has_no_mask():
    busy = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    found = find_object(Image.fromarray(busy), (SIDE, SIDE))
    assert found is None


IMAGE, INSIDE = scene("rectangle", (16, 16, 47, 47), (220, 30, 30))
MASK = find_object(IMAGE, (8, 8))
AT_IT = torch.where(MASK, 0.2, 0.05)


def three(*layers):
    """Original, sanitized (all maps even) and recovered (a third of the attention on p)."""
    return [
        literal_maps("original", layers, 0, IMAGE),
        literal_maps("sanitized", [[EVEN] * len(heads) for heads in layers], 0, Image.new("RGB", (64, 64))),
        literal_maps("recovered", layers, 1 / 3, IMAGE),
    ]


def test_the_table_of_all_heads():
    table = head_table(three([AT_IT, EVEN]), "church", MASK)
    assert [(row.variant, row.head) for row in table[1:3]] == [("original", 1), ("sanitized", 0)]
    assert (table[0].layer, table[0].band) == (LAYERS[0], "all")
    assert table[0].focus == pytest.approx(4 / 7) and table[1].focus == pytest.approx(0.25)
    assert table[0].agreement == pytest.approx(1, abs=1e-5) and table[2].agreement == 0
    assert table[0].share == pytest.approx(0.0875) and table[4].share == pytest.approx(0.0875 * 2 / 3)
    assert table[0].hidden_prompt == 0 and table[4].hidden_prompt == pytest.approx(1 / 3)
    assert head_table(three([AT_IT]), "church")[0].focus is None


def test_the_table_over_layers_and_bands(tmp_path):
    variants = three([AT_IT, EVEN], [EVEN, EVEN])
    for maps in variants[:1]:  # in the last band the first head of the first layer looks nowhere
        maps.sums[LAYERS[0]] = maps.sums[LAYERS[0]].clone()
        maps.sums[LAYERS[0]][4, 0, 1] = 0.0875
    table = every_table(variants, "church", MASK)
    assert len(table) == 2 * (1 + BANDS) * 3 * 2  # layers, all bands and each, variants, heads
    found = {(row.variant, row.layer, row.band, row.head): row.focus for row in table}
    assert found["original", LAYERS[0], "0", 0] == pytest.approx(4 / 7, abs=1e-5)
    assert found["original", LAYERS[0], "4", 0] == pytest.approx(0.25, abs=1e-5)
    assert 0.25 < found["original", LAYERS[0], "all", 0] < 4 / 7
    assert found["original", LAYERS[1], "0", 0] == pytest.approx(0.25, abs=1e-5)
    lines = save_table(table, tmp_path / "numbers.csv").read_text().splitlines()
    assert lines[0].startswith("variant,layer,band,head,share,dispersion,agreement,focus")
    assert len(lines) == 1 + len(table) and lines[1].startswith(f"original,{LAYERS[0]},all,0,0.0875,")
    unknown = save_table(every_table(variants, "church"), tmp_path / "other.csv").read_text().splitlines()
    assert unknown[1].split(",")[7] == ""


def test_the_sharpest_layer_has_the_largest_focus():
    original = three([EVEN, EVEN], [AT_IT, EVEN])[0]
    assert sharpest_layer(original, "church", MASK) == LAYERS[1] == sharpest_layer(original, "church")


@pytest.mark.parametrize("view", ["overlay", "heat", "difference"])
def test_figure_and_its_files(tmp_path, view):
    figure = attribution_figure(three([AT_IT, EVEN]), "church", view, MASK)
    width, height = to_image(figure, dpi=60).size
    assert width > height > 100
    for name, start in (("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")):
        assert save_figure(figure, tmp_path / name, dpi=60).read_bytes().startswith(start)
    with pytest.raises(InputError, match=".png, .svg or .pdf"):
        save_figure(figure, tmp_path / "a.gif")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pdf", "a.png", "a.svg"]


def words_on(figure) -> list[str]:
    told = [text.get_text() for text in figure.texts]
    return told + [axis.get_xlabel() for axis in figure.axes if axis.get_xlabel()]


def test_what_stands_on_the_figure():
    down = [maps.select(layer="down") for maps in three([AT_IT, EVEN], [EVEN, EVEN])]
    told = words_on(attribution_figure(down, "church", mask=MASK))
    assert {"“church”", "original", "sanitized", "recovered", "key's share", "head 2", "all"} <= set(told)
    assert told.count("\N{BULLET} 57 %") == 2  # original and recovered look at the object, the head in bold
    assert told.count("33 %") == 3  # p's share in both heads, and in all
    assert "layer down 0.0" in next(text for text in told if "seed 0" in text)
    note = " ".join(text for text in told if len(text) > 60)
    assert "the object of the original picture in every row (25 % is chance)" in note
    assert "same head only within one layer" not in note
    assert any(text.endswith("with its own key") for text in told)
    down[2] = replace(down[2], key=key_use("castle", "concat"))
    other = words_on(attribution_figure(down, "church", mask=MASK))
    assert "key: castle" in other and "recovered" not in other
    assert any(text.endswith("with the key of “castle”") for text in other)
    several = " ".join(words_on(attribution_figure(three([AT_IT], [AT_IT]), "church", mask=MASK)))
    assert "all layers" in several and "Head numbers mean the same head only within one layer." in several
    unmasked = words_on(attribution_figure(three([AT_IT, EVEN]), "church"))
    assert "r 1.00" in unmasked and not any("focus" in text for text in unmasked)


def test_upright_the_rows_are_the_heads():
    wide = attribution_figure(three([AT_IT, EVEN]), "church", mask=MASK)
    tall = attribution_figure(three([AT_IT, EVEN]), "church", mask=MASK, upright=True)
    assert wide.get_figwidth() > 2 * wide.get_figheight() / 2 and tall.get_figwidth() < tall.get_figheight()
    assert len(tall.axes) == len(wide.axes)


def test_the_papers_figure_has_a_block_a_word_on_one_scale():
    variants = three([AT_IT, EVEN])
    faint = [literal_maps(maps.variant, [[0.1 * AT_IT, EVEN]], 0, IMAGE) for maps in variants]
    one, two = (
        paper_figure([Block(variants, "church", MASK)]),
        paper_figure([Block(variants, "church", MASK), Block(faint, "church", MASK)], "heat"),
    )
    assert words_on(two).count("“church”") == 2 and words_on(two).count("sanitized") == 2
    assert two.get_figheight() > 1.7 * one.get_figheight() / 1.2
    maps = [axis.get_images()[0].get_array() for axis in two.axes if axis.get_images()]
    bright = [float(np.asarray(array)[..., :3].max()) for array in maps]
    assert max(bright) > 0.9  # the first block's brightest point; the second's head is dark beside it
    with pytest.raises(InputError, match="one prompt and one seed"):
        paper_figure([Block([variants[0], replace(variants[1], seed=1)], "church")])
    with pytest.raises(InputError, match="choose overlay, heat, difference"):
        attribution_figure(variants, "church", "side")


@pytest.mark.parametrize("upright", [False, True])
def test_the_profile_of_layers_and_steps(upright):
    variants = three([AT_IT, EVEN], [EVEN, EVEN])
    figure = profile_figure(
        every_table(variants, "church", MASK), LAYERS[0], 0.25, "a church", "dark", upright
    )
    told = [text.get_text() for text in figure.texts]
    assert {"Focus: share of attention inside the object", "down 0.0", "up 1.0", "a church"} <= set(told)
    assert any("White is chance, 25 %" in text for text in told)
    assert {"Focus, down 0.0, over the steps", "Agreement, down 0.0, over the steps"} <= set(told)
    tiles = [text.get_text() for text in figure.axes[0].texts]
    assert tiles == ["57", "25", "25", "25"]
    curve = figure.axes[3].lines[2]  # after a pale line a head, that of all: 0.05 + 0.025 of 0.0875 + 0.1
    assert list(curve.get_ydata()) == pytest.approx([0.4] * BANDS, abs=1e-4)
    unmasked = profile_figure(every_table(variants, "church"))
    assert unmasked.texts[0].get_text() == "1 is the same map, 0 is no likeness."
    with pytest.raises(InputError, match="no numbers"):
        profile_figure([])


def test_what_the_command_draws(tmp_path):
    variants = three([EVEN, EVEN], [AT_IT, EVEN])
    (block,) = as_blocks([(variants, "church")], "emoji")
    assert block.variants[0].layers == (LAYERS[1],) and torch.equal(block.mask, MASK)
    (other,) = as_blocks([(variants, "church")], "CompVis/stable-diffusion-v1-4", layer="all")
    assert other.mask is None and len(other.variants[0].layers) == 2
    drawn = list(draw_figures([variants, variants], "emoji", tmp_path, kind="svg"))
    assert [path.name for path, _ in drawn] == [
        "attribution-church.svg", "attribution-church-profile.svg", "attribution-church.csv",
        "attribution.npz", "attribution-church-church.svg",
    ]  # fmt: skip
    assert drawn[0][1].startswith("Reading “church”, 1 of 2 heads looks at the object.")


def test_arrays_file_holds_maps_and_native_sums(tmp_path):
    variants = three([AT_IT, EVEN])
    with np.load(save_arrays(variants, tmp_path / "maps.npz", MASK, rounded=True)) as arrays:
        about = json.loads(str(arrays["about"]))
        assert np.array_equal(arrays["mask"], MASK) and about["rounded"] is True
        assert about["variants"] == ["original", "sanitized", "recovered"]
        assert about["columns"] == ["<|startoftext|>", "church</w>", "<|endoftext|>", "hidden prompt"]
        assert np.allclose(arrays["original/heads/church"], variants[0]["church"].heads)
        assert arrays["recovered/hidden_prompt_mass"].max() == pytest.approx(1 / 3, abs=1e-3)
        assert arrays[f"recovered/layer/{LAYERS[0]}"].shape == (5, 2, 4, 8, 8)
