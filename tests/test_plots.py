"""Plots are kept in the repository: as small as they go, and nothing of what they show is lost."""

import numpy as np
from PIL import Image

from kpop.evaluation.plots import blank, save


def drawn(tmp_path, paint):
    figure = blank(2, 2, "")
    paint(figure, figure.subplots())
    with Image.open(save(figure, tmp_path / "plot.png")) as image:
        return image.mode, len(image.convert("RGB").getcolors(maxcolors=1 << 20))


def test_lines_have_few_colours_pictures_more_and_a_scale_of_colours_all(tmp_path):
    many = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    mode, count = drawn(tmp_path, lambda figure, axes: axes.plot([1, 2]))
    assert mode == "P" and count <= 64
    mode, count = drawn(tmp_path, lambda figure, axes: axes.imshow(many))
    assert mode == "P" and 64 < count <= 256
    scale = lambda figure, axes: figure.colorbar(axes.imshow(many[..., 0]))  # noqa: E731
    mode, count = drawn(tmp_path, scale)
    assert mode == "RGB" and count > 200
