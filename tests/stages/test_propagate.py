"""How often easy images are drawn, and that the teacher's part of the loss reaches the student alone."""

import pytest
import torch

from atp.stages.propagate import rarity_weights


def test_no_balance_draws_evenly() -> None:
    assert rarity_weights([torch.tensor([1, 2])], 0.0) is None


def test_rare_classes_come_up_more_often() -> None:
    common, rare = torch.tensor([90, 0]), torch.tensor([80, 10])
    weights = rarity_weights([common, common, rare], 1.0)
    assert weights is not None
    assert weights[2] > 2 * weights[0]
    assert weights.mean() == pytest.approx(1)


def test_worked_by_hand() -> None:
    # Shares overall: 3/4 and 1/4. Image 1: 1 / (3/4) = 4/3; image 2: (1/2) / (3/4) + (1/2) / (1/4) = 8/3; mean 2.
    weights = rarity_weights([torch.tensor([2, 0]), torch.tensor([1, 1])], 1.0)
    assert weights is not None
    assert weights.tolist() == pytest.approx([2 / 3, 4 / 3])
    half = rarity_weights([torch.tensor([2, 0]), torch.tensor([1, 1])], 0.5)
    assert half is not None
    assert half.tolist() == pytest.approx([5 / 6, 7 / 6])


def test_an_image_without_labels_and_an_absent_class_are_no_trouble() -> None:
    weights = rarity_weights([torch.tensor([0, 0, 0]), torch.tensor([5, 5, 0])], 0.5)
    assert weights is not None
    assert weights.isfinite().all()
    assert (weights > 0).all()
