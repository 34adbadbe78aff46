"""CutMix: boxes of half the image, of any shape and place."""

import torch
from torch import Tensor

from atp.mixing.cut_mix import masks


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def boxes(count: int, height: int, width: int, generator: torch.Generator | None = None) -> Tensor:
    return masks(torch.zeros(count, height, width, dtype=torch.int64), generator=generator)


def test_cut_mix_pastes_one_box_of_half_the_image() -> None:
    found = boxes(200, 60, 90, _generator())
    assert found.shape == (200, 60, 90)
    heights, widths = found.any(2).sum(1), found.any(1).sum(1)
    # A whole box, as large as its rows and columns say, and no row or column inside it is left out.
    assert torch.equal(heights * widths, found.sum((1, 2)))
    assert ((heights * widths / (60 * 90)) - 0.5).abs().max() < 0.02
    for rows in found.any(2):
        inside = rows.nonzero()[:, 0]
        assert inside[-1] - inside[0] + 1 == len(inside)
    # Of any shape and place.
    assert heights.min() < 35
    assert heights.max() > 55
    first = found.any(2).int().argmax(1)
    assert first.min() == 0
    assert first.max() > 20


def test_cut_mix_s_generator_decides() -> None:
    assert torch.equal(boxes(3, 8, 9, _generator(3)), boxes(3, 8, 9, _generator(3)))
    torch.manual_seed(3)
    assert torch.equal(boxes(3, 8, 9), boxes(3, 8, 9, _generator(3)))
