"""UniMatch: boxes of the published sizes in half of the images."""

import torch
from torch import Tensor

from atp.mixing.uni_match import masks


def boxes(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    labels = torch.zeros(count, height, width, dtype=torch.int64)
    return masks(labels, generator=torch.Generator().manual_seed(seed))


def test_half_of_the_images_have_a_box_of_the_published_area() -> None:
    found = boxes(2000, 60, 90)
    assert found.shape == (2000, 60, 90)
    some = found.any((1, 2))
    assert abs(some.float().mean() - 0.5) < 0.05
    heights, widths = found[some].any(2).sum(1), found[some].any(1).sum(1)
    # A whole box, as large as its rows and columns say.
    assert torch.equal(heights * widths, found[some].sum((1, 2)))
    area = heights * widths / (60 * 90)
    assert 0.015 < area.min() < 0.03
    assert 0.38 < area.max() < 0.41
    assert abs(area.mean() - 0.21) < 0.02
    ratio = (heights / 60) / (widths / 90)
    assert 0.25 < ratio.min() < 0.4
    assert 2.5 < ratio.max() < 4


def test_boxes_are_everywhere_and_of_their_own() -> None:
    found = boxes(2000, 16, 24)
    assert found.any(0).all()
    assert torch.equal(found, boxes(2000, 16, 24))
    assert not torch.equal(found, boxes(2000, 16, 24, seed=1))


def test_the_draw_is_the_default_generator_s() -> None:
    labels = torch.zeros(9, 16, 24, dtype=torch.int64)
    torch.manual_seed(5)
    assert torch.equal(masks(labels), masks(labels, generator=torch.Generator().manual_seed(5)))
