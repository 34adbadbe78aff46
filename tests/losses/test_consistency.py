"""Eq. 10: consistency with a teacher, and how much it weighs."""

import math

import pytest
import torch

from atp.losses.consistency import confidence_mask, confidence_share, consistency_loss

# Two images of two pixels, each with probabilities (1/2, 1/4, 1/4).
LOGITS = torch.tensor([2.0, 1.0, 1.0]).log()[None, :, None, None].expand(2, 3, 1, 2)
LABELS = torch.tensor([[[0, 1]], [[2, 255]]])


def test_by_hand() -> None:
    # log 2, log 4 | log 4, none: over three labelled pixels.
    assert consistency_loss(LOGITS, LABELS).item() == pytest.approx(5 * math.log(2) / 3)
    assert consistency_loss(LOGITS, LABELS, 0.5).item() == pytest.approx(2.5 * math.log(2) / 3)
    # An image's weight: (1 * (1 + 2) + 0.25 * 2) log 2.
    assert consistency_loss(LOGITS, LABELS, torch.tensor([1.0, 0.25])).item() == pytest.approx(3.5 * math.log(2) / 3)
    # A pixel's: (0.5 * 1 + 0 * 2 + 0.25 * 2) log 2; that of the pixel without a label does not matter.
    weight = torch.tensor([[[0.5, 0.0]], [[0.25, 9.0]]])
    assert consistency_loss(LOGITS, LABELS, weight).item() == pytest.approx(math.log(2) / 3)


def test_a_common_weight_does_not_cancel() -> None:
    half = consistency_loss(LOGITS, LABELS, torch.full((2, 1, 2), 0.5))
    torch.testing.assert_close(half, 0.5 * consistency_loss(LOGITS, LABELS))
    assert consistency_loss(LOGITS, LABELS, 0.0) == 0


def test_limit_agreement_is_zero() -> None:
    sure = 1e4 * torch.eye(3)[LABELS.clamp_max(2)].permute(0, 3, 1, 2)
    assert consistency_loss(sure, LABELS, 2.0) == 0


def test_confidence_share() -> None:
    sure, edge, unsure = [1.0, 0.0], [0.75, 0.25], [0.5, 0.5]
    probabilities = torch.tensor([[sure, edge, unsure], [unsure, unsure, edge]]).permute(0, 2, 1)[:, :, None]
    # The threshold itself counts.
    torch.testing.assert_close(confidence_share(probabilities, 0.75), torch.tensor([2 / 3, 1 / 3]))
    torch.testing.assert_close(confidence_share(probabilities), torch.tensor([1 / 3, 0.0]))
    valid = torch.tensor([[[False, True, True]], [[False, False, False]]])
    torch.testing.assert_close(confidence_share(probabilities, 0.75, valid), torch.tensor([0.5, 0.0]))


def test_confidence_mask() -> None:
    sure, edge, unsure = [1.0, 0.0], [0.75, 0.25], [0.5, 0.5]
    probabilities = torch.tensor([[sure, edge, unsure]]).permute(0, 2, 1)[:, :, None]
    # The threshold itself counts.
    assert confidence_mask(probabilities, 0.75).tolist() == [[[1, 1, 0]]]
    assert confidence_mask(probabilities).tolist() == [[[1, 0, 0]]]
    valid = torch.tensor([[[False, True, True]]])
    assert confidence_mask(probabilities, 0.75, valid).tolist() == [[[0, 1, 0]]]
    assert confidence_mask(probabilities.half(), 0.75).dtype == torch.float32


def test_confidence_share_of_half_precision_counts_every_pixel() -> None:
    """A mean of 0 and 1 in float16 could not tell 2999 of 3000 pixels from all of them."""
    probabilities = torch.ones(1, 1, 30, 100, dtype=torch.float16)
    probabilities[0, 0, 0, 0] = 0.5
    assert confidence_share(probabilities).item() == pytest.approx(2999 / 3000, abs=1e-6)
