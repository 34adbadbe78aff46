"""Eqs. 5 and 7: positive and negative pseudo labels."""

import math

import pytest
import torch
from torch import Tensor

from atp.losses.pseudo_label import negative_pseudo_label_loss, positive_pseudo_label_loss


def _logits_of(*pixels: list[float]) -> Tensor:
    """Logits (1, C, 1, W) whose softmax is the given probabilities, pixel by pixel."""
    return torch.tensor(pixels, dtype=torch.float64).log().T[None, :, None].clone()


def _negatives(*pixels: list[int]) -> Tensor:
    """bool (1, C, 1, W) from 0/1, pixel by pixel."""
    return torch.tensor(pixels, dtype=torch.bool).T[None, :, None]


def _valid(width: int) -> Tensor:
    return torch.ones(1, 1, width, dtype=torch.bool)


def test_positive_by_hand() -> None:
    # log 2, log 4, no label, padding: over three valid pixels.
    logits = _logits_of([0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1])
    valid = torch.tensor([[[True, True, True, False]]])
    labels = torch.tensor([[[0, 1, 255, 0]]])
    assert positive_pseudo_label_loss(logits, labels, valid).item() == pytest.approx(math.log(8) / 3)


def test_negative_by_hand() -> None:
    # -log(1 - 1/4) twice; -log(1 - 1/2); the sure branch, -log(1 - 0.9) with -log(1 - 0.06).
    logits = _logits_of([0.5, 0.25, 0.25], [0.5, 0.3, 0.2], [0.9, 0.06, 0.04])
    negatives = _negatives([0, 1, 1], [1, 0, 0], [1, 1, 0])
    expected = [2 * math.log(4 / 3), math.log(2), math.log(10) + math.log(1 / 0.94)]
    assert negative_pseudo_label_loss(logits, negatives, _valid(3)).item() == pytest.approx(sum(expected) / 3)
    for pixel in range(3):
        only = torch.zeros_like(_valid(3))
        only[..., pixel] = True
        assert negative_pseudo_label_loss(logits, negatives, only).item() == pytest.approx(expected[pixel])


def test_limits() -> None:
    right = torch.tensor([1e4, -1e4]).reshape(1, 2, 1, 1)
    assert positive_pseudo_label_loss(right, torch.tensor([[[0]]]), _valid(1)) == 0
    assert negative_pseudo_label_loss(right, _negatives([0, 1]), _valid(1)) == 0
    # Wrong: both grow with the logits' difference.
    assert positive_pseudo_label_loss(right, torch.tensor([[[1]]]), _valid(1)) == 2e4
    assert negative_pseudo_label_loss(right, _negatives([1, 0]), _valid(1)) == 2e4


def test_no_labels_are_no_loss() -> None:
    logits = _logits_of([0.5, 0.3, 0.2], [0.97, 0.02, 0.01])
    assert positive_pseudo_label_loss(logits, torch.full((1, 1, 2), 255), _valid(2)) == 0
    assert negative_pseudo_label_loss(logits, _negatives([0, 0, 0], [0, 0, 0]), _valid(2)) == 0


def test_both_divide_by_the_same_pixels() -> None:
    """With two classes, a positive label says what a negative label of the other class says."""
    logits = 2 * torch.randn(2, 2, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    positives = torch.full((2, 4, 5), 255)
    positives[0, :2] = 1
    positives[1, 3, 3] = 0
    negatives = torch.stack([positives == 1, positives == 0], 1)
    valid = torch.ones(2, 4, 5, dtype=torch.bool)
    valid[:, :, 4] = False
    torch.testing.assert_close(
        positive_pseudo_label_loss(logits, positives, valid), negative_pseudo_label_loss(logits, negatives, valid)
    )


def test_crop_size_does_not_matter() -> None:
    logits = torch.randn(1, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(4, (1, 3, 3), generator=torch.Generator().manual_seed(1))
    negatives = torch.rand(1, 4, 3, 3, generator=torch.Generator().manual_seed(2)) < 0.5
    valid = torch.ones(1, 3, 3, dtype=torch.bool)
    four = [torch.cat([torch.cat([t, t], -1)] * 2, -2) for t in (logits, labels, negatives, valid)]
    for loss, given in ((positive_pseudo_label_loss, 1), (negative_pseudo_label_loss, 2)):
        once = loss(logits, (logits, labels, negatives)[given], valid)
        torch.testing.assert_close(loss(four[0], four[given], four[3]), once)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("lead", [20.0, 60.0, 1e3, 1e4])
def test_a_sure_class_can_be_unlearnt(dtype: torch.dtype, lead: float) -> None:
    """p rounds to 1; its logit must still be pushed down, as hard as by cross-entropy, and the others up."""
    logits = torch.tensor([0.0, lead, 0.0], dtype=dtype).reshape(1, 3, 1, 1).requires_grad_()
    loss = negative_pseudo_label_loss(logits, _negatives([0, 1, 0]), _valid(1))
    loss.backward()
    assert logits.grad is not None
    # float32 holds a logit of 1e4 to about 1e-3.
    assert logits.grad.flatten().tolist() == pytest.approx([-0.5, 1, -0.5], abs=1e-3)
    # 1 - p = 2 / (2 + exp(lead)), the lead as its type rounds it.
    assert loss.item() == pytest.approx(logits.max().item() - math.log(2), rel=1e-6)


def test_two_ways_to_the_log_meet() -> None:
    """Value and slope just below and above p = 3/4."""
    values, slopes = [], []
    for p in (0.75 - 1e-7, 0.75 + 1e-7):
        logits = _logits_of([p, (1 - p) / 2, (1 - p) / 2]).requires_grad_()
        loss = negative_pseudo_label_loss(logits, _negatives([1, 1, 0]), _valid(1))
        values.append(loss.item())
        slopes.append(torch.autograd.grad(loss, logits)[0])
    assert values[0] == pytest.approx(values[1], abs=1e-5)
    torch.testing.assert_close(slopes[0], slopes[1], atol=1e-5, rtol=0)


def test_labels_at_padding_do_not_count() -> None:
    logits = _logits_of([0.5, 0.3, 0.2], [0.97, 0.02, 0.01])
    valid = torch.tensor([[[True, False]]])
    without = positive_pseudo_label_loss(logits, torch.tensor([[[1, 255]]]), valid)
    assert positive_pseudo_label_loss(logits, torch.tensor([[[1, 2]]]), valid) == without
    without = negative_pseudo_label_loss(logits, _negatives([0, 0, 1], [0, 0, 0]), valid)
    assert negative_pseudo_label_loss(logits, _negatives([0, 0, 1], [1, 1, 1]), valid) == without
