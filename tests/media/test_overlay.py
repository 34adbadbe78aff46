import numpy as np
import pytest
from PIL import Image

from atp.data.labels import LabelSpace
from atp.media.overlay import NARROWEST, overlay

SPACE = LabelSpace(("sky", "road", "traffic sign"), ((0, 0, 200), (200, 0, 0), (0, 200, 0)))


def colors(image: Image.Image, top: int) -> set[tuple[int, ...]]:
    below = np.array(image)[top:].reshape(-1, 3)
    return {color for color in SPACE.colors if (below == color).all(1).any()}


@pytest.mark.parametrize("size", [(40, 20), (700, 350), (20, 300)])
def test_the_legend_names_the_classes_that_occur(size: tuple[int, int]) -> None:
    ids = np.zeros(size[::-1], np.uint8)
    ids[:, 7:] = 2
    picture = overlay(Image.new("RGB", size, (100, 100, 100)), ids, SPACE)
    times = -(-NARROWEST // size[0])
    assert picture.width == times * size[0] >= NARROWEST
    height = times * size[1]
    assert 15 < picture.height - height < 60
    assert colors(picture, height) == {SPACE.colors[0], SPACE.colors[2]}
    half = np.array(picture)[height - 1]
    assert half[0].tolist() == [50, 50, 150]
    assert half[-1].tolist() == [50, 150, 50]


def test_a_legend_of_given_classes_has_one_size() -> None:
    image = Image.new("RGB", (500, 90))
    pictures = [overlay(image, np.full((90, 500), index, np.uint8), SPACE, range(3)) for index in (0, 1)]
    assert pictures[0].size == pictures[1].size
    assert colors(pictures[0], 90) == set(SPACE.colors)


def test_without_a_legend_it_has_the_images_size() -> None:
    image = Image.new("RGB", (40, 20), (100, 100, 100))
    picture = overlay(image, np.ones((20, 40), np.uint8), SPACE, ())
    assert picture.size == (40, 20)
    assert picture.getpixel((3, 3)) == (150, 50, 50)


def test_many_classes_on_a_narrow_image_have_rows() -> None:
    space = LabelSpace.named([f"a rather long name {index}" for index in range(30)])
    ids = np.arange(30, dtype=np.uint8)[None].repeat(40, 0)
    picture = overlay(Image.new("RGB", (30, 40)), ids, space)
    # Two abreast.
    assert 15 * 20 < picture.height - 40 * 16 < 20 * 20
