"""Each indicator: a value worked by hand, its limits, and what must not change it."""

import math

import pytest
import torch
from torch.nn import functional as F

from atp.evaluation.evidence.indicators import (
    class_iou,
    effective_classes,
    marginal_divergence,
    neighbourhood_density,
    pixel_agreement,
)


def one_hot(*classes: int) -> torch.Tensor:
    return F.one_hot(torch.tensor(classes), 3).float()


def test_density_of_three_pixels_by_hand() -> None:
    """Two alike, one apart: similarities 1 and 0 over .5, so e^2 to 1 for the two and an even choice for the third."""
    pair = math.exp(2) / (math.exp(2) + 1)
    entropy = -(pair * math.log(pair) + (1 - pair) * math.log(1 - pair))
    expected = (2 * entropy + math.log(2)) / 3
    density = neighbourhood_density(one_hot(0, 0, 1), temperature=0.5)
    assert float(density) == pytest.approx(expected, abs=1e-6)


def test_density_is_greatest_where_all_predict_the_same() -> None:
    assert float(neighbourhood_density(one_hot(*[1] * 10))) == pytest.approx(math.log(9), abs=1e-6)


def test_two_clusters_are_half_as_dense() -> None:
    density = neighbourhood_density(one_hot(*[0] * 9, *[1] * 9))
    assert float(density) == pytest.approx(math.log(8), abs=1e-5)


def test_density_does_not_hang_on_the_rows_held_at_once() -> None:
    pixels = torch.rand(50, 4, generator=torch.Generator().manual_seed(0)).softmax(1)
    whole, parts = neighbourhood_density(pixels), neighbourhood_density(pixels, rows=7)
    assert float(whole) == pytest.approx(float(parts), abs=1e-6)
    assert 0 < float(whole) < math.log(49)


@pytest.mark.parametrize(
    ("shares", "expected"),
    [([1.0, 0.0, 0.0], 1.0), ([1 / 3] * 3, 3.0), ([0.5, 0.5, 0.0], 2.0), ([0.5, 0.25, 0.25], 2 * math.sqrt(2))],
)
def test_effective_classes(shares: list[float], expected: float) -> None:
    assert float(effective_classes(torch.tensor(shares))) == pytest.approx(expected, abs=1e-6)


def test_divergence_by_hand() -> None:
    source, marginal = torch.tensor([0.5, 0.5]), torch.tensor([0.75, 0.25])
    expected = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert float(marginal_divergence(marginal, source)) == pytest.approx(expected, abs=1e-6)


def test_divergence_is_nothing_for_the_same_and_finite_for_a_class_that_is_gone() -> None:
    source = torch.tensor([0.6, 0.4])
    assert float(marginal_divergence(source, source)) == 0
    gone = float(marginal_divergence(torch.tensor([1.0, 0.0]), source))
    come = float(marginal_divergence(source, torch.tensor([1.0, 0.0])))
    assert 2 < gone < 4
    assert come < gone


COUNTS = torch.tensor([[6, 2, 0], [0, 2, 0], [0, 0, 0]])


def test_class_iou_by_hand() -> None:
    """6 of 8, 2 of 4, and a class that neither predicts."""
    assert float(class_iou(COUNTS)) == pytest.approx((6 / 8 + 2 / 4 + 0) / 3)


def test_pixel_agreement_by_hand() -> None:
    assert float(pixel_agreement(COUNTS)) == pytest.approx(0.8)


def test_one_class_everywhere_is_no_agreement_of_all_classes() -> None:
    counts = torch.zeros(4, 4, dtype=torch.int64)
    counts[2, 2] = 100
    assert float(pixel_agreement(counts)) == 1
    assert float(class_iou(counts)) == 0.25
    assert float(class_iou(torch.eye(4) * 25)) == 1
