"""Eq. 1: cross-entropy with true labels."""

import math

import pytest
import torch

from atp.losses.supervised import pixel_cross_entropy, segmentation_cross_entropy

# Three pixels with probabilities (1/2, 1/4, 1/4).
LOGITS = torch.tensor([2.0, 1.0, 1.0]).log()[None, :, None, None].expand(1, 3, 1, 3)


def test_by_hand() -> None:
    labels = torch.tensor([[[0, 255, 1]]])
    torch.testing.assert_close(pixel_cross_entropy(LOGITS, labels), torch.tensor([[[math.log(2), 0.0, math.log(4)]]]))
    # log 2 and log 4 over two labelled pixels.
    assert segmentation_cross_entropy(LOGITS, labels).item() == pytest.approx(1.5 * math.log(2))


def test_limits() -> None:
    sure = torch.tensor([1e4, 0, 0]).reshape(1, 3, 1, 1)
    assert segmentation_cross_entropy(sure, torch.tensor([[[0]]])) == 0
    assert segmentation_cross_entropy(sure, torch.tensor([[[2]]])) == 1e4
    uniform = torch.full((1, 7, 2, 2), 3.0)
    assert segmentation_cross_entropy(uniform, torch.zeros(1, 2, 2, dtype=torch.long)).item() == pytest.approx(
        math.log(7)
    )


def test_an_id_beyond_the_classes_is_no_ignored_pixel() -> None:
    with pytest.raises(IndexError, match="out of bounds"):
        segmentation_cross_entropy(LOGITS, torch.tensor([[[0, 3, 1]]]))
