"""Eq. 11: distillation from predictions."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from atp.losses.distillation import dense_probabilities, distillation_loss


def _probabilities(*pixels: list[float]) -> Tensor:
    """(1, C, 1, W)"""
    return torch.tensor(pixels).T[None, :, None].clone()


ALL = torch.ones(1, 1, 2, dtype=torch.bool)


def test_by_hand() -> None:
    # KL((1/2, 1/2, 0) || (1/4, 1/4, 1/2)) = log 2; KL((0, 0, 1) || (1/4, 1/4, 1/2)) = log 2; of equals 0.
    logits = _probabilities([0.25, 0.25, 0.5], [0.25, 0.25, 0.5], [0.2, 0.3, 0.5]).log()
    source = _probabilities([0.5, 0.5, 0.0], [0.0, 0.0, 1.0], [0.2, 0.3, 0.5])
    valid = torch.ones(1, 1, 3, dtype=torch.bool)
    assert distillation_loss(logits, source, valid).item() == pytest.approx(2 * math.log(2) / 3)
    valid[..., 2] = False
    assert distillation_loss(logits, source, valid).item() == pytest.approx(math.log(2))


def test_direction() -> None:
    """KL(source || target) is finite where the source says 0, and asymmetric."""
    source, target = _probabilities([0.9, 0.1], [0.9, 0.1]), _probabilities([0.5, 0.5], [0.5, 0.5])
    forward = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert distillation_loss(target.log(), source, ALL).item() == pytest.approx(forward, rel=1e-5)
    assert distillation_loss(source.log(), target, ALL).item() != pytest.approx(forward, rel=0.1)


def test_limit_equal_predictions_have_no_loss_and_no_gradient() -> None:
    logits = torch.randn(2, 6, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    loss = distillation_loss(logits, logits.detach().softmax(1), torch.ones(2, 3, 3, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert gradient.abs().max() < 1e-12


def test_a_hard_source_is_cross_entropy() -> None:
    draw = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(2, 6, 3, 3, generator=draw), torch.randint(6, (2, 3, 3), generator=draw)
    one_hot = F.one_hot(labels, 6).permute(0, 3, 1, 2)
    valid = torch.ones(2, 3, 3, dtype=torch.bool)
    torch.testing.assert_close(distillation_loss(logits, one_hot.half(), valid), F.cross_entropy(logits, labels))


def test_mean_over_pixels_not_over_images() -> None:
    logits, source = _probabilities([0.5, 0.5], [0.5, 0.5]).log(), _probabilities([1.0, 0.0], [1.0, 0.0])
    assert distillation_loss(logits, source, ALL).item() == pytest.approx(math.log(2))
    # "batchmean" gives twice that for two pixels.
    assert F.kl_div(logits, source, reduction="batchmean").item() == pytest.approx(2 * math.log(2))


def test_dense_probabilities_by_hand() -> None:
    """Two of five classes named, one of three, all of two with mass missing, and none."""
    classes = torch.tensor([[[1, 3]], [[2, 255]]], dtype=torch.uint8).permute(0, 2, 1)[..., None]
    assert classes.shape == (2, 2, 1, 1)
    probabilities = torch.tensor([[0.6, 0.3], [0.4, 0.0]])[..., None, None]
    dense = dense_probabilities(classes, probabilities, 5)[..., 0, 0]
    assert dense[0].tolist() == pytest.approx([0.1 / 3, 0.6, 0.1 / 3, 0.3, 0.1 / 3])
    assert dense[1].tolist() == pytest.approx([0.15, 0.15, 0.4, 0.15, 0.15])
    full = dense_probabilities(torch.tensor([1, 0])[:, None, None], torch.tensor([0.6, 0.2])[:, None, None], 2)
    assert full.flatten().tolist() == pytest.approx([0.25, 0.75])
    none = dense_probabilities(torch.full((2, 1, 1), 255), torch.ones(2, 1, 1), 3)
    assert none.flatten().tolist() == [0, 0, 0]


def test_a_pixel_of_which_no_class_is_named_has_zeros_beside_one_that_has() -> None:
    classes = torch.tensor([[1, 255], [255, 255]])[:, None]  # (k, 1, pixels)
    probabilities = torch.tensor([[0.7, 0.0], [0.0, 0.0]])[:, None]
    expected = torch.tensor([[0.15, 0.0], [0.7, 0.0], [0.15, 0.0]])[:, None]
    torch.testing.assert_close(dense_probabilities(classes, probabilities, 3), expected)


def test_a_single_class_that_is_not_named_has_all_that_is_missing() -> None:
    classes = torch.tensor([2, 0])[:, None, None]
    dense = dense_probabilities(classes, torch.tensor([0.6, 0.3])[:, None, None], 3)
    torch.testing.assert_close(dense.flatten(), torch.tensor([0.3, 0.1, 0.6]))
