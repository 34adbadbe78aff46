"""Maximum squares, plain and class-balanced."""

import pytest
import torch
from torch import Tensor

from atp.baselines.max_square import max_square_loss

VALID = torch.ones(1, 1, 4, dtype=torch.bool)


def _logits(*pixels: list[float]) -> Tensor:
    return torch.tensor(pixels, dtype=torch.float64).log().T[None, :, None]


def test_by_hand() -> None:
    # Three pixels of class 0, p = (3/4, 1/4) with sum p^2 = 5/8, and one of class 1, (1/5, 4/5) with 17/25.
    logits = _logits([0.75, 0.25], [0.75, 0.25], [0.75, 0.25], [0.2, 0.8])
    plain = -0.5 * (3 * 5 / 8 + 17 / 25) / 4
    assert max_square_loss(logits, VALID, balance=0.0).item() == pytest.approx(plain)
    # 1 / (N_c^0.2 * N^0.8) with N_0 = 3, N_1 = 1, N = 4.
    balanced = -0.5 * (3 * 5 / 8 / (3**0.2 * 4**0.8) + 17 / 25 / 4**0.8)
    assert max_square_loss(logits, VALID).item() == pytest.approx(balanced)
    # Fully balanced, both classes count the same.
    assert max_square_loss(logits, VALID, balance=1.0).item() == pytest.approx(-0.5 * (5 / 8 + 17 / 25))


def test_limits() -> None:
    certain, uniform = torch.tensor([1e4, 0, 0, 0]).reshape(1, 4, 1, 1), torch.zeros(1, 4, 1, 1)
    one = VALID[..., :1]
    assert max_square_loss(certain, one, balance=0.0) == -0.5
    assert max_square_loss(uniform, one, balance=0.0) == -0.125


def test_padding_counts_as_no_pixel_of_its_class() -> None:
    logits = _logits([0.75, 0.25], [0.75, 0.25], [0.75, 0.25], [0.2, 0.8])
    valid = torch.tensor([[[True, False, False, True]]])
    alone = max_square_loss(logits[..., [0, 3]], VALID[..., :2])
    torch.testing.assert_close(max_square_loss(logits, valid), alone)


def test_its_slope_is_linear_where_entropy_s_is_steep() -> None:
    """What the loss is for: near certainty, for two classes, d/dz is p (1-p) (1-2p), without a logarithm."""
    logits = torch.tensor([4.0, 0.0], dtype=torch.float64).reshape(1, 2, 1, 1).requires_grad_()
    (slope,) = torch.autograd.grad(max_square_loss(logits, VALID[..., :1], balance=0.0), logits)
    p = torch.sigmoid(torch.tensor(4.0, dtype=torch.float64))
    torch.testing.assert_close(slope[0, 0, 0, 0], p * (1 - p) * (1 - 2 * p))
