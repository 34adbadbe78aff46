"""Eq. 3: diversity."""

import math

import pytest
import torch
from torch import Tensor

from atp.losses.diversity import diversity_loss


def _valid(logits: Tensor) -> Tensor:
    return torch.ones(logits.shape[0], *logits.shape[2:], dtype=torch.bool)


def _certain(*images: list[int], num_classes: int = 2) -> Tensor:
    """Logits (N, C, 1, W) that are sure of the given classes."""
    return 1e4 * torch.eye(num_classes)[torch.tensor(images)].permute(0, 2, 1)[:, :, None]


def test_by_hand() -> None:
    # One pixel in four is of class 1: -(3/4 log2 3/4 + 1/4 log2 1/4) = 2 - 3/4 log2 3 bits.
    logits = _certain([0, 0, 0, 1])
    assert diversity_loss(logits, _valid(logits)).item() == pytest.approx(0.75 * math.log2(3) - 2)


def test_weighted_by_hand() -> None:
    # A pixel sure of class 0, h = 0, w = 1; a uniform one, h = 1, w = exp(-log 3) = 1/3.
    # p-hat_1 = (1/3 * 1/2) / (1 + 1/3) = 1/8.
    logits = _certain([0, 0])
    logits[..., 1] = 0
    expected = 1 / 8 * math.log2(1 / 8) + 7 / 8 * math.log2(7 / 8)
    assert diversity_loss(logits, _valid(logits), sharpness=math.log(3)).item() == pytest.approx(expected)
    # Unweighted, p-hat_1 = 1/4.
    plain = diversity_loss(logits, _valid(logits), weighted=False)
    assert plain.item() == pytest.approx(1 / 4 * math.log2(1 / 4) + 3 / 4 * math.log2(3 / 4))
    assert diversity_loss(logits, _valid(logits), sharpness=0.0) == plain


@pytest.mark.parametrize("num_classes", [2, 13, 40])
def test_limits(num_classes: int) -> None:
    every = _certain(list(range(num_classes)), num_classes=num_classes)
    assert diversity_loss(every, _valid(every)).item() == pytest.approx(-1)
    uniform = torch.zeros(2, num_classes, 3, 3)
    assert diversity_loss(uniform, _valid(uniform)).item() == pytest.approx(-1)
    one = _certain([1, 1, 1], num_classes=num_classes)
    assert diversity_loss(one, _valid(one)) == 0


def test_per_image_sees_what_the_batch_hides() -> None:
    """Each image has one class, the batch has both."""
    logits = _certain([0, 0], [1, 1])
    assert diversity_loss(logits, _valid(logits)).item() == pytest.approx(-1)
    assert diversity_loss(logits, _valid(logits), per_image=True) == 0


def test_an_image_of_padding_alone_counts_for_nothing() -> None:
    logits = _certain([0, 1], [0, 0])
    valid = _valid(logits)
    valid[1] = False
    assert diversity_loss(logits, valid, per_image=True).item() == pytest.approx(-1)


def test_sharpness_prefers_certain_pixels() -> None:
    """A sure pixel of class 0 and an unsure one of class 1: the sharper, the less the second one helps."""
    logits = _certain([0, 0])
    logits[0, :, 0, 1] = torch.tensor([-1.0, 1.0])
    losses = [diversity_loss(logits, _valid(logits), sharpness=sharpness).item() for sharpness in (0, 1, 3, 10)]
    assert losses == sorted(losses)
    assert losses[0] < losses[-1] - 0.5


@pytest.mark.parametrize("per_image", [False, True])
def test_a_step_spreads_the_classes(per_image: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 4, 4, generator=draw)
    logits[:, 0] += 2
    logits.requires_grad_()
    loss = diversity_loss(logits, _valid(logits), per_image=per_image)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert diversity_loss(logits - gradient, _valid(logits), per_image=per_image) < loss


def test_full_gradient_makes_pixels_of_the_frequent_class_uncertain() -> None:
    """A pixel of class 1 and two of class 0: with the weight a constant, these do not become less certain as fast."""
    logits = torch.tensor([[2.0, 2.0, -2.0], [-2.0, -2.0, 2.0]])[None, :, None].requires_grad_()
    slopes = []
    for weight_grad in ("detach", "full"):
        loss = diversity_loss(logits, _valid(logits), weight_grad=weight_grad)  # type: ignore[arg-type]
        slopes.append(torch.autograd.grad(loss, logits)[0][0, 0, 0])
    # A step against the gradient lowers class 0's logit: by more where that also lowers the pixel's weight.
    assert (slopes[1][:2] > slopes[0][:2]).all()
    assert (slopes[0][:2] > 0).all()


@pytest.mark.parametrize("weight_grad", ["detach", "full"])
@pytest.mark.parametrize("sharpness", [40.0, 85.0, 100.0, 1e4])
def test_weights_near_nothing_have_a_finite_gradient(sharpness: float, weight_grad: str) -> None:
    logits = torch.zeros(1, 3, 2, 2)
    logits[:, 2] = -100
    logits[..., 0, 0] += torch.tensor([0.01, 0.0, 0.0])
    logits.requires_grad_()
    diversity_loss(logits, _valid(logits), sharpness=sharpness, weight_grad=weight_grad).backward()  # type: ignore[arg-type]
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("weight_grad", ["detach", "full"])
def test_weights_that_underflow_stay_finite(weight_grad: str) -> None:
    logits = torch.zeros(1, 3, 2, 2, requires_grad=True)
    loss = diversity_loss(logits, _valid(logits), sharpness=1e4, weight_grad=weight_grad)  # type: ignore[arg-type]
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_defaults_are_the_papers_sharpness_weights_and_one_distribution() -> None:
    logits = 3 * torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(2, 3, 4, dtype=torch.bool)
    assert diversity_loss(logits, valid) == diversity_loss(logits, valid, sharpness=3.0, weighted=True, per_image=False)
    logits.requires_grad_()
    default, detached = (
        torch.autograd.grad(diversity_loss(logits, valid, **given), logits)[0]
        for given in ({}, {"weight_grad": "detach"})
    )
    assert torch.equal(default, detached)
