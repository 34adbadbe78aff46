"""TENT's and ADVENT's entropy minimisation."""

import math

import pytest
import torch

from atp.losses.entropy import curriculum_entropy_loss, entropy_loss

VALID = torch.ones(1, 1, 2, dtype=torch.bool)


def test_by_hand() -> None:
    # ADVENT's Eq. 2 with C = 4: (1/2, 1/4, 1/4, 0) has 3/2 bits of 2, (1/2, 1/2, 0, 0) has 1 of 2.
    p = torch.tensor([[0.5, 0.25, 0.25, 1e-30], [0.5, 0.5, 1e-30, 1e-30]], dtype=torch.float64)
    assert entropy_loss(p.log().T[None, :, None], VALID).item() == pytest.approx((3 / 4 + 1 / 2) / 2)


def test_tent_s_is_the_same_in_nats() -> None:
    logits = torch.randn(1, 7, 1, 2, generator=torch.Generator().manual_seed(0))
    nats = -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(entropy_loss(logits, VALID) * math.log(7), nats)


def test_limits() -> None:
    certain, uniform = torch.tensor([1e4, 0, 0]).reshape(1, 3, 1, 1).expand(-1, -1, -1, 2), torch.zeros(1, 3, 1, 2)
    assert entropy_loss(certain, VALID) == 0
    assert entropy_loss(uniform, VALID) == 1


def test_it_is_the_curriculum_without_a_curriculum() -> None:
    logits = torch.randn(1, 5, 1, 2, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(entropy_loss(logits, VALID), curriculum_entropy_loss(logits, VALID, gamma=0.0))
