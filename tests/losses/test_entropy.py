"""Eqs. 2 and 9: entropy, its curriculum, and the mean by which images are ranked."""

import pytest
import torch
from torch import Tensor

from atp.losses.entropy import curriculum_entropy_loss, mean_entropy, normalized_entropy, rising_entropy_share


def _logits_of(*pixels: list[float]) -> Tensor:
    """Logits (1, C, 1, W) whose softmax is the given probabilities, pixel by pixel."""
    return torch.tensor(pixels, dtype=torch.float64).log().T[None, :, None].clone()


ALL = torch.ones(1, 1, 2, dtype=torch.bool)


def test_by_hand() -> None:
    # (1/2, 1/4, 1/4, 0) has 1.5 bits, of at most 2: h = 3/4. (1/2, 1/2, 0, 0) has 1 bit: h = 1/2.
    logits = _logits_of([0.5, 0.25, 0.25, 1e-30], [0.5, 0.5, 1e-30, 1e-30])
    torch.testing.assert_close(normalized_entropy(logits)[0, 0], torch.tensor([0.75, 0.5], dtype=torch.float64))
    # Mean of (1/4)^3 * 3/4 and (1/2)^3 * 1/2, which is 3/256 and 16/256.
    assert curriculum_entropy_loss(logits, ALL, gamma=3.0).item() == pytest.approx(19 / 512)
    first = torch.tensor([[[True, False]]])
    assert curriculum_entropy_loss(logits, first, gamma=3.0).item() == pytest.approx(3 / 256)


def test_limits() -> None:
    certain, uniform = torch.tensor([1e4, 0, 0.0]).reshape(1, 3, 1, 1), torch.full((1, 3, 1, 1), -1e4)
    assert normalized_entropy(certain) == 0
    assert normalized_entropy(uniform) == 1
    assert curriculum_entropy_loss(certain, ALL[..., :1]) == 0
    assert curriculum_entropy_loss(uniform, ALL[..., :1]).item() == pytest.approx(0, abs=1e-12)
    # Without a curriculum it is the mean entropy.
    assert curriculum_entropy_loss(uniform, ALL[..., :1], gamma=0.0) == 1


@pytest.mark.parametrize("num_classes", [2, 13, 19, 40, 255])
def test_rounding_does_not_leave_the_range(num_classes: int) -> None:
    draw = torch.Generator().manual_seed(0)
    nearly_uniform = 1e-4 * torch.randn(1, num_classes, 50, 50, generator=draw)
    entropy = normalized_entropy(nearly_uniform)
    assert entropy.max() <= 1
    assert entropy.min() > 0.999


@pytest.mark.parametrize("num_classes", [2, 4, 16])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 3.0])
def test_a_uniform_pixel_has_a_finite_gradient(num_classes: int, gamma: float) -> None:
    """h is exactly 1 here, where (1 - h)^gamma has an infinite slope for gamma < 1."""
    logits = torch.zeros(1, num_classes, 1, 2, requires_grad=True)
    assert (normalized_entropy(logits) == 1).all()
    (gradient,) = torch.autograd.grad(curriculum_entropy_loss(logits, ALL, gamma=gamma, weight_grad="full"), logits)
    assert (gradient == 0).all()


def test_uniform_is_no_minimum() -> None:
    """In nats the loss would be -7.4 * 2.9 for 19 uniform classes."""
    uniform, certain = torch.zeros(1, 19, 1, 2), torch.zeros(1, 19, 1, 2)
    certain[:, 0] = 20
    assert curriculum_entropy_loss(uniform, ALL) >= 0
    assert curriculum_entropy_loss(certain, ALL).item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(("weight_grad", "falls"), [("detach", True), ("full", False)])
def test_full_gradient_raises_the_entropy_of_uncertain_pixels(weight_grad: str, falls: bool) -> None:
    """(1/2, 1/4, 1/4, 0) has h = 3/4, above 1 / (1 + 3)."""
    logits = _logits_of([0.5, 0.25, 0.25, 1e-4]).requires_grad_()
    valid = ALL[..., :1]
    curriculum_entropy_loss(logits, valid, weight_grad=weight_grad).backward()  # type: ignore[arg-type]
    assert logits.grad is not None
    step = logits - 0.1 * logits.grad
    assert (normalized_entropy(step) < normalized_entropy(logits)).item() == falls


def test_rising_share_turns_at_its_threshold() -> None:
    # h = 3/4 and 1/2; 1 / (1 + gamma) = 0.77, 0.71, 0.48.
    logits = _logits_of([0.5, 0.25, 0.25, 1e-30], [0.5, 0.5, 1e-30, 1e-30]).requires_grad_()
    shares = [rising_entropy_share(logits, ALL, gamma) for gamma in (0.3, 0.4, 1.1)]
    assert shares == [0, 0.5, 1]
    assert not shares[0].requires_grad
    assert rising_entropy_share(logits, torch.tensor([[[False, True]]]), 0.4) == 0
    assert rising_entropy_share(logits, ~ALL, 1.1) == 0


def test_mean_entropy_is_per_image() -> None:
    # Certain and h = 1/2; uniform twice.
    certain, half = [1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]
    probabilities = torch.tensor([[certain, half], [[0.25] * 4] * 2]).permute(0, 2, 1)[:, :, None]
    torch.testing.assert_close(mean_entropy(probabilities), torch.tensor([0.25, 1.0]))
    valid = torch.tensor([[[False, True]], [[False, False]]])
    torch.testing.assert_close(mean_entropy(probabilities, valid), torch.tensor([0.5, 0.0]))


def test_mean_entropy_of_half_precision_is_computed_in_float32() -> None:
    probabilities = torch.full((1, 2, 100, 100), 0.5, dtype=torch.float16)
    assert mean_entropy(probabilities).dtype == torch.float32
    assert mean_entropy(probabilities).item() == pytest.approx(1, abs=1e-6)


def test_the_default_exponent_is_the_papers() -> None:
    logits = 3 * torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(2, 3, 4, dtype=torch.bool)
    assert curriculum_entropy_loss(logits, valid) == curriculum_entropy_loss(logits, valid, gamma=3.0)
