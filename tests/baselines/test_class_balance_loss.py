"""CBST: its labels are those that minimise its loss."""

import itertools
import math

import pytest
import torch

from atp.baselines._class_balance import class_balanced_labels, class_balanced_loss
from atp.losses.pseudo_label import positive_pseudo_label_loss


def test_by_hand() -> None:
    p = torch.tensor([[0.6, 0.4], [0.85, 0.15], [0.7, 0.3]], dtype=torch.float64).T[None, :, None]
    thresholds = torch.tensor([0.8, 0.35], dtype=torch.float64)
    valid = torch.ones(1, 1, 3, dtype=torch.bool)
    # The first pixel's most probable class is 0, but .6 < .8, and .4 is 8/7 of what class 1 asks; the third has none.
    labels = class_balanced_labels(p, thresholds, valid)
    assert labels.tolist() == [[[1, 0, 255]]]
    expected = -(math.log(0.4 / 0.35) + math.log(0.85 / 0.8)) / 3
    assert class_balanced_loss(p.log(), labels, thresholds, valid).item() == pytest.approx(expected)


def test_the_labels_minimise_the_loss() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(1, 3, 1, 4, generator=draw, dtype=torch.float64)
    thresholds = torch.tensor([0.9, 0.3, 0.5], dtype=torch.float64)
    valid = torch.ones(1, 1, 4, dtype=torch.bool)
    ours = class_balanced_loss(logits, class_balanced_labels(logits.softmax(1), thresholds, valid), thresholds, valid)
    every = [
        class_balanced_loss(logits, torch.tensor([[ids]]), thresholds, valid)
        for ids in itertools.product([0, 1, 2, 255], repeat=4)
    ]
    assert ours == min(every)


def test_a_saturated_threshold_still_selects_and_an_infinite_one_never() -> None:
    p = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1)
    valid = torch.ones(1, 1, 1, dtype=torch.bool)
    assert class_balanced_labels(p, torch.tensor([1.0, 1.0]), valid).item() == 0
    assert class_balanced_labels(p, torch.tensor([torch.inf, 1.0]), valid).item() == 255
    assert class_balanced_labels(p, torch.tensor([1.0, 1.0]), ~valid).item() == 255


def test_an_unlabelled_class_without_a_threshold_is_no_trouble() -> None:
    logits = torch.zeros(1, 2, 1, 2, requires_grad=True)
    labels, valid = torch.tensor([[[1, 255]]]), torch.ones(1, 1, 2, dtype=torch.bool)
    loss = class_balanced_loss(logits, labels, torch.tensor([torch.inf, 0.5]), valid)
    assert loss == 0
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.isfinite().all()


def test_with_fixed_labels_it_teaches_what_positive_labels_do() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 3, 3, generator=draw).requires_grad_()
    labels = torch.randint(4, (2, 3, 3), generator=draw)
    labels[0] = 255
    valid = torch.rand(2, 3, 3, generator=draw) < 0.7
    (mine,) = torch.autograd.grad(class_balanced_loss(logits, labels, torch.full((4,), 0.7), valid), logits)
    (theirs,) = torch.autograd.grad(positive_pseudo_label_loss(logits, labels, valid), logits)
    torch.testing.assert_close(mine, theirs)
