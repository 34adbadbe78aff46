"""Every loss against its equation written a second time: NumPy, float64, pixel after pixel."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from atp.losses.consistency import confidence_share, consistency_loss
from atp.losses.distillation import distillation_loss
from atp.losses.diversity import diversity_loss
from atp.losses.entropy import curriculum_entropy_loss, mean_entropy, normalized_entropy, rising_entropy_share
from atp.losses.pseudo_label import negative_pseudo_label_loss, positive_pseudo_label_loss
from atp.losses.supervised import segmentation_cross_entropy


@dataclass(frozen=True)
class Case:
    """Two images of 5 x 4 pixels; the right and the lower edge of the second one are padding."""

    logits: Tensor  # (N, C, H, W), float64
    labels: Tensor  # (N, H, W), a third of them 255
    negatives: Tensor  # (N, C, H, W)
    target: Tensor  # (N, C, H, W), some of it 0, sums to 1
    weight: Tensor  # (N, H, W)
    valid: Tensor  # (N, H, W)

    @property
    def num_classes(self) -> int:
        return self.logits.shape[1]

    def pixels(self, image: int | None = None) -> Iterator[tuple[int, int, int]]:
        """The valid pixels, of all images or of one."""
        for n, y, x in np.argwhere(self.valid.numpy()):
            if image in (None, n):
                yield n, y, x

    def softmax(self, n: int, y: int, x: int) -> np.ndarray:
        scores = np.exp(self.logits[n, :, y, x].numpy())
        return scores / scores.sum()

    def entropy(self, n: int, y: int, x: int) -> float:
        p = self.softmax(n, y, x)
        return -sum(q * np.log(q) for q in p) / np.log(self.num_classes)


@pytest.fixture(params=[2, 13, 19, 40], ids=lambda c: f"{c}classes")
def case(request: pytest.FixtureRequest) -> Case:
    num_classes = request.param
    draw = torch.Generator().manual_seed(num_classes)
    shape = (2, num_classes, 5, 4)
    labels = torch.randint(num_classes, (2, 5, 4), generator=draw)
    labels[torch.rand(labels.shape, generator=draw) < 0.3] = 255
    valid = torch.ones(2, 5, 4, dtype=torch.bool)
    valid[1, 4:] = False
    valid[1, :, 3:] = False
    target = torch.rand(shape, generator=draw, dtype=torch.float64) ** 4
    target = target.where(target > 0.05, 0) + torch.eye(num_classes)[0][:, None, None] * 0.1
    return Case(
        logits=3 * torch.randn(shape, generator=draw, dtype=torch.float64),
        labels=labels,
        negatives=torch.rand(shape, generator=draw) < 0.5,
        target=target / target.sum(1, keepdim=True),
        weight=torch.rand((2, 5, 4), generator=draw, dtype=torch.float64),
        valid=valid,
    )


def _close(ours: Tensor, expected: float | np.ndarray) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), expected, rtol=1e-10, atol=1e-12)


def _gradient(loss: Tensor, logits: Tensor) -> np.ndarray:
    return torch.autograd.grad(loss, logits)[0].numpy()


def test_normalized_entropy(case: Case) -> None:
    ours = normalized_entropy(case.logits)
    for n, y, x in case.pixels():
        _close(ours[n, y, x], case.entropy(n, y, x))
    np.testing.assert_allclose(normalized_entropy(case.logits.float()), ours, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 3.0])
def test_curriculum_entropy(case: Case, gamma: float) -> None:
    entropies = [case.entropy(*pixel) for pixel in case.pixels()]
    expected = np.mean([(1 - h) ** gamma * h for h in entropies])
    for weight_grad in ("detach", "full"):
        _close(curriculum_entropy_loss(case.logits, case.valid, gamma=gamma, weight_grad=weight_grad), expected)
    rising = np.mean([h > 1 / (1 + gamma) for h in entropies])
    np.testing.assert_allclose(rising_entropy_share(case.logits, case.valid, gamma), rising, rtol=1e-6)


def test_curriculum_entropy_detached_gradient(case: Case) -> None:
    logits = case.logits.clone().requires_grad_()
    gradient = _gradient(curriculum_entropy_loss(logits, case.valid, gamma=3.0), logits)
    expected = np.zeros_like(gradient)
    pixels = list(case.pixels())
    for n, y, x in pixels:
        p, h = case.softmax(n, y, x), case.entropy(n, y, x)
        # d entropy / d logit_c = -p_c (log p_c + entropy), entropy in nats.
        slope = -p * (np.log(p) / np.log(case.num_classes) + h)
        expected[n, :, y, x] = (1 - h) ** 3 * slope / len(pixels)
    np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-12)


def test_mean_entropy(case: Case) -> None:
    expected = [np.mean([case.entropy(*pixel) for pixel in case.pixels(n)]) for n in range(2)]
    _close(mean_entropy(case.logits.softmax(1), case.valid), np.array(expected))


def _frequency(case: Case, sharpness: float, image: int | None = None) -> tuple[np.ndarray, float]:
    """p-hat (C,) of Eq. 3, and the sum of the weights."""
    total, summed = 0.0, np.zeros(case.num_classes)
    for pixel in case.pixels(image):
        weight = np.exp(-sharpness * case.entropy(*pixel))
        total += weight
        summed += weight * case.softmax(*pixel)
    return summed / total, total


@pytest.mark.parametrize(("sharpness", "weighted"), [(3.0, True), (0.5, True), (0.0, False)])
def test_diversity(case: Case, sharpness: float, weighted: bool) -> None:
    def expected(image: int | None) -> float:
        frequency, _ = _frequency(case, sharpness, image)
        return float((frequency * np.log(frequency)).sum() / np.log(case.num_classes))

    # Without weights the sharpness must not matter.
    given = sharpness if weighted else 7.0
    _close(diversity_loss(case.logits, case.valid, sharpness=given, weighted=weighted), expected(None))
    _close(
        diversity_loss(case.logits, case.valid, sharpness=given, weighted=weighted, per_image=True),
        (expected(0) + expected(1)) / 2,
    )


@pytest.mark.parametrize("per_image", [False, True])
def test_diversity_weighted_gradient(case: Case, per_image: bool) -> None:
    logits = case.logits.clone().requires_grad_()
    gradient = _gradient(diversity_loss(logits, case.valid, sharpness=3.0, per_image=per_image), logits)
    expected = np.zeros_like(gradient)
    for image, share in ((0, 0.5), (1, 0.5)) if per_image else ((None, 1.0),):
        frequency, total = _frequency(case, 3.0, image)
        slope = (np.log(frequency) + 1) / np.log(case.num_classes)
        for n, y, x in case.pixels(image):
            p, weight = case.softmax(n, y, x), np.exp(-3.0 * case.entropy(n, y, x))
            expected[n, :, y, x] = share * weight / total * p * (slope - (slope * p).sum())
    np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-12)


def test_pseudo_labels(case: Case) -> None:
    positive = negative = 0.0
    pixels = list(case.pixels())
    for n, y, x in pixels:
        p, label = case.softmax(n, y, x), int(case.labels[n, y, x])
        positive -= np.log(p[label]) if label != 255 else 0
        negative -= sum(np.log(1 - p[c]) for c in range(case.num_classes) if case.negatives[n, c, y, x])
    _close(positive_pseudo_label_loss(case.logits, case.labels, case.valid), positive / len(pixels))
    _close(negative_pseudo_label_loss(case.logits, case.negatives, case.valid), negative / len(pixels))


def test_cross_entropies(case: Case) -> None:
    labels = case.labels.masked_fill(~case.valid, 255)
    nats = {
        (n, y, x): -np.log(case.softmax(n, y, x)[labels[n, y, x]])
        for n, y, x in case.pixels()
        if labels[n, y, x] != 255
    }
    _close(segmentation_cross_entropy(case.logits, labels), np.mean(list(nats.values())))
    for weight in (0.7, case.weight[:, 0, 0], case.weight):
        each = np.broadcast_to(
            weight if isinstance(weight, float) else weight.reshape(2, *weight.shape[1:] or (1, 1)), (2, 5, 4)
        )
        _close(consistency_loss(case.logits, labels, weight), np.mean([each[key] * nats[key] for key in nats]))


def test_confidence_share(case: Case) -> None:
    for threshold in (0.5, 0.9):
        expected = [np.mean([case.softmax(*pixel).max() >= threshold for pixel in case.pixels(n)]) for n in range(2)]
        ours = confidence_share(case.logits.softmax(1), threshold, case.valid)
        np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_distillation(case: Case) -> None:
    nats = []
    for n, y, x in case.pixels():
        p, target = case.softmax(n, y, x), case.target[n, :, y, x].numpy()
        nats.append(sum(t * np.log(t / q) for t, q in zip(target, p, strict=True) if t > 0))
    _close(distillation_loss(case.logits, case.target, case.valid), np.mean(nats))
