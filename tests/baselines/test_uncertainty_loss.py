"""URMA's uncertainty loss."""

import pytest
import torch

from atp.baselines.urma import uncertainty_loss

VALID = torch.ones(1, 1, 1, dtype=torch.bool)


def test_by_hand() -> None:
    # (3/4, 1/4) and (1/4, 3/4) against (1/2, 1/2): each 1/16 a class, and there are two decoders.
    logits = torch.zeros(1, 2, 1, 1)
    decoders = [
        torch.tensor([0.75, 0.25]).log().reshape(1, 2, 1, 1),
        torch.tensor([0.25, 0.75]).log().reshape(1, 2, 1, 1),
    ]
    assert uncertainty_loss(decoders, logits, VALID).item() == pytest.approx(1 / 8)


def test_limits() -> None:
    logits = torch.randn(2, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(2, 3, 3, dtype=torch.bool)
    assert uncertainty_loss([logits, logits + 3], logits, valid).item() == pytest.approx(0, abs=1e-12)
    opposite = 1e4 * torch.eye(2).reshape(2, 2, 1, 1)
    assert uncertainty_loss([opposite], opposite.flip(0), VALID.expand(2, 1, 1)).item() == pytest.approx(1)  # 2 / C


def test_the_network_itself_is_what_to_agree_with() -> None:
    logits, other = torch.randn(1, 3, 2, 2, requires_grad=True), torch.randn(1, 3, 2, 2, requires_grad=True)
    uncertainty_loss([other], logits, torch.ones(1, 2, 2, dtype=torch.bool)).backward()
    assert logits.grad is None
    assert other.grad is not None
