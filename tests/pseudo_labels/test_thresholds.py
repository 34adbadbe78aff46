import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from atp.pseudo_labels.thresholds import CERTAIN, ConfidenceHistogram, confidence_codes, least_confidence


def confidences(count: int, seed: int = 0) -> Tensor:
    """As a trained network's: many within 1e-4 of 1, some exactly 1, a tail below 1/2."""
    normal = torch.randn(count, generator=torch.Generator().manual_seed(seed))
    return 0.06 + 0.94 * torch.sigmoid(3 + 4 * normal)


def histogram(values: Tensor, classes: NDArray[np.uint8], num_classes: int) -> ConfidenceHistogram:
    counted = ConfidenceHistogram(num_classes)
    counted.update(classes, confidence_codes(values).numpy())
    return counted


def test_codes_rise_with_confidence() -> None:
    values = torch.cat([confidences(20_000), torch.linspace(0, 1, 5001), 1 - torch.logspace(-7.5, -0.3, 5000)])
    codes = confidence_codes(values.sort().values).int()
    assert (codes.diff() >= 0).all()
    assert codes[0] == 0
    assert codes[-1] == CERTAIN


def test_only_one_is_certain() -> None:
    below = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))
    assert confidence_codes(torch.stack([below, torch.tensor(1.0)])).tolist() == [CERTAIN - 1, CERTAIN]
    # An average of softmax outputs may come out above 1.
    assert confidence_codes(torch.tensor([1 + 2**-22])).tolist() == [CERTAIN]


def test_comparing_codes_is_comparing_with_the_least_confidence() -> None:
    codes = np.arange(CERTAIN + 1)
    least = np.array([least_confidence(int(code)) for code in codes])
    edges = torch.from_numpy(least).float()
    assert np.array_equal(edges.numpy().astype(np.float64), least), "representable in float32"
    assert (confidence_codes(edges).numpy() >= codes).all()
    below = torch.nextafter(edges, torch.tensor(-1.0))[1:]
    assert (confidence_codes(below).numpy() < codes[1:]).all()


def test_resolution_is_relative_to_the_distance_to_one() -> None:
    values = torch.linspace(0.5, 1, 10_001)[:-1].double()
    step = torch.tensor([least_confidence(int(code)) for code in confidence_codes(values)], dtype=torch.float64)
    assert ((values - step) <= (1 - values) / 128 + 2**-24).all()


def test_quantile_worked_by_hand() -> None:
    values = torch.tensor([0.2, 0.4, 0.6, 0.8])
    counted = histogram(values, np.zeros(4, np.uint8), 1)
    for keep_ratio, least_kept in ((0.25, 0.8), (0.26, 0.6), (0.5, 0.6), (0.75, 0.4), (1.0, 0.2)):
        assert counted.thresholds(keep_ratio)[0] == confidence_codes(torch.tensor(least_kept))


def test_pixels_at_or_above_a_code_are_counted() -> None:
    counted = histogram(torch.tensor([0.2, 0.4, 0.6, 1.0, 0.9]), np.array([0, 0, 0, 0, 2], np.uint8), 3)
    codes = confidence_codes(torch.tensor([0.4, 0.4, 1.0])).numpy().astype(np.int64)
    assert counted.at_least(codes).tolist() == [3, 0, 0]
    assert counted.at_least(np.full(3, CERTAIN + 1)).tolist() == [0, 0, 0]
    assert counted.at_least(counted.thresholds(0.5)).tolist() == [2, 0, 1]


def test_saturated_confidences_are_kept() -> None:
    counted = histogram(torch.ones(10), np.zeros(10, np.uint8), 1)
    assert counted.thresholds(0.3)[0] == CERTAIN


def test_never_predicted_selects_nothing() -> None:
    counted = histogram(torch.tensor([0.9, 1.0]), np.array([0, 2], np.uint8), 4)
    thresholds = counted.thresholds(0.5)
    assert (thresholds[[1, 3]] > CERTAIN).all()
    assert (thresholds[[0, 2]] <= CERTAIN).all()


@pytest.mark.parametrize("keep_ratio", [0.05, 0.3, 0.65, 0.95])
def test_kept_share_is_close_to_the_ratio(keep_ratio: float) -> None:
    values = confidences(200_000)
    threshold = histogram(values, np.zeros(len(values), np.uint8), 1).thresholds(keep_ratio)[0]
    kept = float((confidence_codes(values) >= int(threshold)).float().mean())
    assert keep_ratio <= kept < keep_ratio + 0.005


def test_images_add_up_in_any_order() -> None:
    values = confidences(3000)
    classes = np.random.default_rng(0).integers(0, 5, len(values)).astype(np.uint8)
    whole = histogram(values, classes, 5)
    parts = ConfidenceHistogram(5)
    for part in (slice(2000, None), slice(700), slice(700, 2000)):
        parts.update(classes[part], confidence_codes(values[part]).numpy())
    assert np.array_equal(parts.counts, whole.counts)
    assert whole.counts.sum() == len(values)
    assert np.array_equal(whole.counts.sum(1), np.bincount(classes, minlength=5))


def test_memory_is_that_of_one_image() -> None:
    counted = ConfidenceHistogram(19)
    before = counted.counts.nbytes
    for seed in range(20):
        counted.update(np.zeros(500, np.uint8), confidence_codes(confidences(500, seed)).numpy())
    assert counted.counts.nbytes == before < 1_000_000
    assert counted.counts.sum() == 20 * 500
