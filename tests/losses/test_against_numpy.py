"""Every loss against its equation written a second time: NumPy, float64, pixel after pixel.

On logits in float64, where the two agree to the last digits, and in float32 and bfloat16, whose rounding the reference
sees too: what is left is what the loss's own arithmetic in float32 costs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from atp.baselines._class_balance import class_balanced_labels, class_balanced_loss
from atp.baselines.information_maximization import information_maximization_loss
from atp.baselines.max_square import max_square_loss
from atp.baselines.urma import uncertainty_loss
from atp.losses.consistency import confidence_mask, confidence_share, consistency_loss
from atp.losses.distillation import distillation_loss
from atp.losses.diversity import diversity_loss
from atp.losses.entropy import (
    curriculum_entropy_loss,
    entropy_loss,
    mean_entropy,
    normalized_entropy,
    rising_entropy_share,
)
from atp.losses.pseudo_label import negative_pseudo_label_loss, positive_pseudo_label_loss
from atp.losses.regional_contrast import contrast
from atp.losses.supervised import segmentation_cross_entropy


@dataclass(frozen=True)
class Case:
    """Two images of 5 x 4 pixels; the right and the lower edge of the second one are padding."""

    given: Tensor  # logits as the loss gets them, (N, C, H, W)
    labels: Tensor  # (N, H, W), a third of them 255
    negatives: Tensor  # (N, C, H, W)
    target: Tensor  # (N, C, H, W), some of it 0, sums to 1
    weight: Tensor  # (N, H, W)
    valid: Tensor  # (N, H, W)

    @property
    def logits(self) -> Tensor:
        """As the reference gets them, float64."""
        return self.given.double()

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


@pytest.fixture(params=[torch.float64, torch.float32, torch.bfloat16], ids=["float64", "float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    given: torch.dtype = request.param
    return given


@pytest.fixture(params=[2, 13, 19, 40], ids=lambda c: f"{c}classes")
def case(request: pytest.FixtureRequest, dtype: torch.dtype) -> Case:
    num_classes = request.param
    full = torch.float64 if dtype == torch.float64 else torch.float32
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
        given=(3 * torch.randn(shape, generator=draw, dtype=torch.float64)).to(dtype),
        labels=labels,
        negatives=torch.rand(shape, generator=draw) < 0.5,
        target=(target / target.sum(1, keepdim=True)).to(full),
        weight=torch.rand((2, 5, 4), generator=draw, dtype=torch.float64).to(full),
        valid=valid,
    )


def _close(ours: Tensor, expected: float | np.ndarray) -> None:
    exact = ours.dtype == torch.float64
    np.testing.assert_allclose(ours, expected, rtol=1e-10 if exact else 1e-5, atol=1e-12 if exact else 1e-6)


def _gradient_close(loss: Tensor, logits: Tensor, expected: np.ndarray) -> None:
    # A gradient has its logits' type, in bfloat16 8 bits of it.
    rtol, atol = {torch.float64: (1e-9, 1e-12), torch.float32: (1e-4, 1e-7), torch.bfloat16: (1e-2, 1e-6)}[logits.dtype]
    (gradient,) = torch.autograd.grad(loss, logits)
    np.testing.assert_allclose(gradient.double(), expected, rtol=rtol, atol=atol)


def test_normalized_entropy(case: Case) -> None:
    ours = normalized_entropy(case.given)
    for n, y, x in case.pixels():
        _close(ours[n, y, x], case.entropy(n, y, x))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 3.0])
def test_curriculum_entropy(case: Case, gamma: float) -> None:
    entropies = [case.entropy(*pixel) for pixel in case.pixels()]
    expected = np.mean([(1 - h) ** gamma * h for h in entropies])
    for weight_grad in ("detach", "full"):
        _close(curriculum_entropy_loss(case.given, case.valid, gamma=gamma, weight_grad=weight_grad), expected)
    rising = np.mean([h > 1 / (1 + gamma) for h in entropies])
    np.testing.assert_allclose(rising_entropy_share(case.given, case.valid, gamma), rising, rtol=1e-6)


def test_curriculum_entropy_detached_gradient(case: Case) -> None:
    logits = case.given.clone().requires_grad_()
    expected = np.zeros(logits.shape)
    pixels = list(case.pixels())
    for n, y, x in pixels:
        p, h = case.softmax(n, y, x), case.entropy(n, y, x)
        # d entropy / d logit_c = -p_c (log p_c + entropy), entropy in nats.
        slope = -p * (np.log(p) / np.log(case.num_classes) + h)
        expected[n, :, y, x] = (1 - h) ** 3 * slope / len(pixels)
    _gradient_close(curriculum_entropy_loss(logits, case.valid, gamma=3.0), logits, expected)


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
    _close(diversity_loss(case.given, case.valid, sharpness=given, weighted=weighted), expected(None))
    _close(
        diversity_loss(case.given, case.valid, sharpness=given, weighted=weighted, per_image=True),
        (expected(0) + expected(1)) / 2,
    )


@pytest.mark.parametrize("per_image", [False, True])
def test_diversity_weighted_gradient(case: Case, per_image: bool) -> None:
    logits = case.given.clone().requires_grad_()
    expected = np.zeros(logits.shape)
    for image, share in ((0, 0.5), (1, 0.5)) if per_image else ((None, 1.0),):
        frequency, total = _frequency(case, 3.0, image)
        slope = (np.log(frequency) + 1) / np.log(case.num_classes)
        for n, y, x in case.pixels(image):
            p, weight = case.softmax(n, y, x), np.exp(-3.0 * case.entropy(n, y, x))
            expected[n, :, y, x] = share * weight / total * p * (slope - (slope * p).sum())
    _gradient_close(diversity_loss(logits, case.valid, sharpness=3.0, per_image=per_image), logits, expected)


def test_pseudo_labels(case: Case) -> None:
    positive = negative = 0.0
    pixels = list(case.pixels())
    for n, y, x in pixels:
        p, label = case.softmax(n, y, x), int(case.labels[n, y, x])
        positive -= np.log(p[label]) if label != 255 else 0
        negative -= sum(np.log(1 - p[c]) for c in range(case.num_classes) if case.negatives[n, c, y, x])
    _close(positive_pseudo_label_loss(case.given, case.labels, case.valid), positive / len(pixels))
    _close(negative_pseudo_label_loss(case.given, case.negatives, case.valid), negative / len(pixels))


def test_cross_entropies(case: Case) -> None:
    labels = case.labels.masked_fill(~case.valid, 255)
    nats = {
        (n, y, x): -np.log(case.softmax(n, y, x)[labels[n, y, x]])
        for n, y, x in case.pixels()
        if labels[n, y, x] != 255
    }
    _close(segmentation_cross_entropy(case.given, labels), np.mean(list(nats.values())))
    for weight in (0.7, case.weight[:, 0, 0], case.weight):
        each = np.broadcast_to(
            weight if isinstance(weight, float) else weight.reshape(2, *weight.shape[1:] or (1, 1)), (2, 5, 4)
        )
        _close(consistency_loss(case.given, labels, weight), np.mean([each[key] * nats[key] for key in nats]))


def test_confidence_share(case: Case) -> None:
    for threshold in (0.5, 0.9):
        expected = [np.mean([case.softmax(*pixel).max() >= threshold for pixel in case.pixels(n)]) for n in range(2)]
        ours = confidence_share(case.logits.softmax(1), threshold, case.valid)
        np.testing.assert_allclose(ours, expected, rtol=1e-6)
        mask = np.zeros(case.valid.shape)
        for pixel in case.pixels():
            mask[pixel] = case.softmax(*pixel).max() >= threshold
        np.testing.assert_array_equal(confidence_mask(case.logits.softmax(1), threshold, case.valid), mask)


def test_distillation(case: Case) -> None:
    nats = []
    for n, y, x in case.pixels():
        p, target = case.softmax(n, y, x), case.target[n, :, y, x].numpy()
        nats.append(sum(t * np.log(t / q) for t, q in zip(target, p, strict=True) if t > 0))
    _close(distillation_loss(case.given, case.target, case.valid), np.mean(nats))


def test_entropy_minimization(case: Case) -> None:
    _close(entropy_loss(case.given, case.valid), np.mean([case.entropy(*pixel) for pixel in case.pixels()]))


def test_information_maximization(case: Case) -> None:
    frequency, _ = _frequency(case, 0.0)
    entropy = np.mean([case.entropy(*pixel) for pixel in case.pixels()])
    information = entropy + 0.7 * (frequency * np.log(frequency)).sum() / np.log(case.num_classes)
    _close(information_maximization_loss(case.given, case.valid, diversity=0.7), information)


@pytest.mark.parametrize("balance", [0.0, 0.2, 1.0])
def test_max_square(case: Case, balance: float) -> None:
    images = []
    for image in range(2):
        pixels = list(case.pixels(image))
        predicted = [int(case.softmax(*pixel).argmax()) for pixel in pixels]
        terms = [
            (case.softmax(*pixel) ** 2).sum() / (predicted.count(c) ** balance * len(pixels) ** (1 - balance))
            for pixel, c in zip(pixels, predicted, strict=True)
        ]
        images.append(-0.5 * sum(terms))
    _close(max_square_loss(case.given, case.valid, balance=balance), np.mean(images))


def test_class_balance(case: Case) -> None:
    thresholds = torch.linspace(0.1, 0.9, case.num_classes, dtype=torch.float64)
    labels = class_balanced_labels(case.logits.softmax(1), thresholds, case.valid)
    assert (labels[~case.valid] == 255).all()
    total = 0.0
    pixels = list(case.pixels())
    for n, y, x in pixels:
        multiples = case.softmax(n, y, x) / thresholds.numpy()
        best = int(multiples.argmax())
        assert labels[n, y, x] == (best if multiples[best] >= 1 else 255)
        total += -np.log(multiples[best]) if multiples[best] >= 1 else 0.0
    _close(class_balanced_loss(case.given, labels, thresholds, case.valid), total / len(pixels))


def test_uncertainty(case: Case) -> None:
    decoders = [case.given.roll(1, 0), case.given * 0.5]
    expected = 0.0
    pixels = list(case.pixels())
    for n, y, x in pixels:
        p = case.softmax(n, y, x)
        for other in decoders:
            scores = np.exp(other[n, :, y, x].double().numpy())
            expected += ((scores / scores.sum() - p) ** 2).mean() / len(pixels)
    _close(uncertainty_loss(decoders, case.given, case.valid), expected)


def test_contrast(case: Case) -> None:
    # The classes' scores serve as representations: any vectors will do.
    vectors = case.given.movedim(1, -1)[case.valid]
    queries, positive, negatives = vectors[:7], vectors[7], vectors[8:]

    def similarity(a: Tensor, b: Tensor) -> float:
        first, second = a.double().numpy(), b.double().numpy()
        return float(np.exp(first @ second / np.linalg.norm(first) / np.linalg.norm(second) / 0.5))

    expected = 0.0
    for query in queries:
        own = similarity(query, positive)
        expected -= np.log(own / (own + sum(similarity(query, other) for other in negatives))) / len(queries)
    ours = contrast(
        *(part.to(torch.float32) if part.dtype == torch.bfloat16 else part for part in (queries, positive, negatives)),
        0.5,
    )
    _close(ours, expected)
