"""SHOT's information maximisation."""

import math

import pytest
import torch
from torch import Tensor

from atp.baselines.information_maximization import information_maximization_loss

VALID = torch.ones(1, 1, 2, dtype=torch.bool)


def _logits(*pixels: list[float]) -> Tensor:
    return torch.tensor(pixels, dtype=torch.float64).log().T[None, :, None]


def test_by_hand() -> None:
    # Pixels (3/4, 1/4) and (1/4, 3/4): each has 2 - 3/4 log2 3 bits, their mean (1/2, 1/2) has 1.
    each = 2 - 0.75 * math.log2(3)
    logits = _logits([0.75, 0.25], [0.25, 0.75])
    assert information_maximization_loss(logits, VALID).item() == pytest.approx(each - 1)
    assert information_maximization_loss(logits, VALID, diversity=0.5).item() == pytest.approx(each - 0.5)


def test_limits() -> None:
    sure = 1e4 * torch.eye(2).reshape(1, 2, 1, 2)
    assert information_maximization_loss(sure, VALID).item() == pytest.approx(-1)
    # One class everywhere tells nothing, and neither does no decision.
    assert information_maximization_loss(sure[..., :1].expand(-1, -1, -1, 2), VALID).item() == pytest.approx(0)
    assert information_maximization_loss(torch.zeros(1, 2, 1, 2), VALID).item() == pytest.approx(0)
