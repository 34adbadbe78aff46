"""MIC: most blocks of an image are hidden."""

import pytest
import torch

from atp.mixing.mic import hidden_blocks


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# As many pixels as in the authors' crops, and in our images.
@pytest.mark.parametrize(("height", "width", "block"), [(1024, 1024, 64), (512, 512, 32), (80, 160, 5), (8, 12, 1)])
def test_seven_of_ten_blocks_are_hidden(height: int, width: int, block: int) -> None:
    labels = torch.zeros(1, 1, 1, dtype=torch.int64).expand(40, height, width)
    found = hidden_blocks(labels, generator=_generator())
    assert (found.shape, found.dtype) == (labels.shape, torch.bool)
    corners = found[:, ::block, ::block]
    assert corners.float().mean().item() == pytest.approx(0.7, abs=0.02)
    # Each block is all hidden or not at all.
    whole = corners.repeat_interleave(block, 1).repeat_interleave(block, 2)
    assert torch.equal(found, whole)


def test_images_and_seeds_have_blocks_of_their_own() -> None:
    labels = torch.zeros(2, 32, 64, dtype=torch.int64)
    found = hidden_blocks(labels, generator=_generator())
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found, hidden_blocks(labels, generator=_generator(1)))
    torch.manual_seed(0)
    assert torch.equal(found, hidden_blocks(labels))


def test_sides_that_are_no_multiple_of_a_block_are_covered() -> None:
    found = hidden_blocks(torch.zeros(50, 45, 77, dtype=torch.int64), generator=_generator())
    assert found[:, -1, -1].float().mean().item() == pytest.approx(0.7, abs=0.2)
