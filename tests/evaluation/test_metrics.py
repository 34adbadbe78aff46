"""Confusion matrix: worked by hand, and against torchmetrics."""

import math

import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from atp.evaluation.metrics import ConfusionMatrix


def test_worked_by_hand() -> None:
    confusion = ConfusionMatrix(3)
    confusion.update(torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 255]))
    # Class 0: hit 1, predicted twice; class 1: hit 1, shown twice; class 2: only predicted where there is no label.
    assert confusion.iou()[:2].tolist() == [0.5, 0.5]
    assert confusion.iou()[2].isnan()
    assert confusion.mean_iou() == 0.5


def test_a_class_that_is_only_predicted_is_no_class_to_average() -> None:
    confusion = ConfusionMatrix(3)
    confusion.update(torch.tensor([0, 2]), torch.tensor([0, 0]))
    assert confusion.mean_iou() == 0.5


def test_mean_over_some_classes_counts_what_is_predicted_elsewhere() -> None:
    """A protocol is a mean over fewer rows of the same matrix, not another matrix."""
    confusion = ConfusionMatrix(4)
    confusion.counts[:] = torch.tensor([[6, 2, 0, 0], [0, 4, 0, 0], [3, 1, 4, 0], [0, 0, 0, 0]])
    # Classes 0 and 1: 6 of 11 and 4 of 7, with class 2's pixels that were taken for them among the 11 and the 7.
    assert confusion.mean_iou([0, 1]) == pytest.approx((6 / 11 + 4 / 7) / 2)
    # Class 3 is not shown.
    assert confusion.mean_iou([0, 3]) == pytest.approx(6 / 11)
    assert math.isnan(confusion.mean_iou([3]))


def test_agrees_with_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted = torch.randint(0, 5, (4, 20, 30), generator=generator)
    labels = torch.randint(0, 5, (4, 20, 30), generator=generator)
    labels[:, :3] = 255
    confusion = ConfusionMatrix(5)
    for one, other in zip(predicted, labels, strict=True):
        confusion.update(one, other)
    reference = MulticlassJaccardIndex(5, ignore_index=255)(predicted, labels)
    assert confusion.mean_iou() == pytest.approx(float(reference), abs=1e-6)


def test_no_answer_is_a_miss_of_the_true_class_alone() -> None:
    confusion = ConfusionMatrix(3)
    confusion.update(torch.tensor([0, 255, 1, 255, 255]), torch.tensor([0, 0, 1, 2, 255]))
    assert confusion.iou().tolist() == [0.5, 1, 0]
    assert confusion.mean_iou() == 0.5
    twice = ConfusionMatrix(3)
    twice.add(confusion)
    twice.add(confusion)
    assert twice.iou().tolist() == confusion.iou().tolist()
