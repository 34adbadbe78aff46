"""What every loss promises: finite gradients, right gradients, and no heed to what is to be ignored."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from atp.baselines._class_balance import class_balanced_loss
from atp.baselines.information_maximization import information_maximization_loss
from atp.baselines.max_square import max_square_loss
from atp.baselines.urma import uncertainty_loss
from atp.data.labels import IGNORE
from atp.losses.consistency import consistency_loss
from atp.losses.distillation import distillation_loss
from atp.losses.diversity import diversity_loss
from atp.losses.entropy import curriculum_entropy_loss, entropy_loss
from atp.losses.pixels import NO_LABEL
from atp.losses.pseudo_label import negative_pseudo_label_loss, positive_pseudo_label_loss
from atp.losses.supervised import segmentation_cross_entropy

Loss = Callable[[Tensor, Tensor], Tensor]

N, C, H, W = 2, 5, 3, 4


def _labels() -> Tensor:
    labels = torch.arange(N * H * W).reshape(N, H, W) % C
    labels[:, 1, ::2] = 255
    return labels


def _target(logits: Tensor) -> Tensor:
    """One-hot in the upper row, two classes in the others: soft, with zeros."""
    target = torch.zeros(N, C, H, W, dtype=logits.dtype)
    target[:, 1] = 1
    target[:, 1, 1:] = 0.25
    target[:, 2, 1:] = 0.75
    return target


def _negatives() -> Tensor:
    return (torch.arange(N * C * H * W) % 3 != 0).reshape(N, C, H, W)


LOSSES: dict[str, Loss] = {
    "entropy": curriculum_entropy_loss,
    "entropy, full": lambda z, valid: curriculum_entropy_loss(z, valid, weight_grad="full"),
    "entropy, full, gamma .5": lambda z, valid: curriculum_entropy_loss(z, valid, weight_grad="full", gamma=0.5),
    "entropy, gamma 0": lambda z, valid: curriculum_entropy_loss(z, valid, gamma=0.0),
    "diversity": diversity_loss,
    "diversity, full": lambda z, valid: diversity_loss(z, valid, weight_grad="full"),
    "diversity, full, per image": lambda z, valid: diversity_loss(z, valid, weight_grad="full", per_image=True),
    "diversity, plain": lambda z, valid: diversity_loss(z, valid, weighted=False),
    "diversity, per image": lambda z, valid: diversity_loss(z, valid, per_image=True),
    "diversity, plain, per image": lambda z, valid: diversity_loss(z, valid, weighted=False, per_image=True),
    "positive": lambda z, valid: positive_pseudo_label_loss(z, _labels(), valid),
    "negative": lambda z, valid: negative_pseudo_label_loss(z, _negatives(), valid),
    "supervised": lambda z, valid: segmentation_cross_entropy(z, _labels().masked_fill(~valid, 255)),
    "consistency": lambda z, valid: consistency_loss(z, _labels().masked_fill(~valid, 255), torch.tensor([0.3, 0.8])),
    "distillation": lambda z, valid: distillation_loss(z, _target(z), valid),
    "entropy minimisation": entropy_loss,
    "information maximisation": information_maximization_loss,
    "maximum squares": lambda z, valid: max_square_loss(z, valid, balance=0.0),
    "maximum squares, balanced": max_square_loss,
    "class balance": lambda z, valid: class_balanced_loss(z, _labels(), torch.full((C,), 0.4), valid),
    "uncertainty": lambda z, valid: uncertainty_loss([z, 2 * z], torch.zeros_like(z), valid),
}
# Those whose weights are constants to autograd and not to finite differences; test_against_numpy.py compares their
# gradients with formulas.
DETACHED = {"entropy", "diversity", "diversity, per image"}

every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def _valid() -> Tensor:
    valid = torch.ones(N, H, W, dtype=torch.bool)
    valid[0, :, 3] = False
    valid[1, 2] = False
    return valid


def _logits(dtype: torch.dtype = torch.float64) -> Tensor:
    return 2 * torch.randn(N, C, H, W, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def _value_and_gradient(loss: Loss, logits: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.clone().requires_grad_()
    value = loss(logits, valid)
    value.backward()
    assert logits.grad is not None
    return value.detach(), logits.grad


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("pattern", ["one high", "one low", "all high", "all low", "mixed", "uniform"])
def test_saturated_logits_give_finite_gradients(loss: Loss, dtype: torch.dtype, pattern: str) -> None:
    logits = torch.zeros(N, C, H, W)
    match pattern:
        case "one high":
            logits[:, 1] = 1e4
        case "one low":
            logits[:, 1] = -1e4
        case "all high":
            logits[:] = 1e4
        case "all low":
            logits[:] = -1e4
        case "mixed":
            logits = 1e4 * _logits(torch.float32).sign()
    value, gradient = _value_and_gradient(loss, logits.to(dtype), _valid())
    assert value.dtype == torch.float32
    assert value.shape == ()
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert gradient.abs().max() <= C


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in DETACHED])
def test_gradient_agrees_with_finite_differences(name: str) -> None:
    assert torch.autograd.gradcheck(lambda z: LOSSES[name](z, _valid()), _logits().requires_grad_())


@every_loss
def test_padding_changes_nothing(loss: Loss) -> None:
    valid = _valid()
    other = _logits().flip(0) * 5
    value, gradient = _value_and_gradient(loss, _logits(), valid)
    changed = torch.where(valid[:, None], _logits(), other)
    value_changed, gradient_changed = _value_and_gradient(loss, changed, valid)
    assert torch.equal(value, value_changed)
    assert torch.equal(gradient, gradient_changed)
    assert (gradient.movedim(1, -1)[~valid] == 0).all()
    # The same change does matter where pixels count.
    everywhere = torch.ones_like(valid)
    assert loss(_logits(), everywhere) != loss(changed, everywhere)


@every_loss
def test_nothing_valid_is_zero_with_a_gradient(loss: Loss) -> None:
    value, gradient = _value_and_gradient(loss, _logits(torch.float32), torch.zeros(N, H, W, dtype=torch.bool))
    assert value == 0
    assert (gradient == 0).all()


@every_loss
def test_half_precision_is_computed_in_float32(loss: Loss) -> None:
    logits = _logits(torch.bfloat16)
    value = loss(logits, _valid())
    torch.testing.assert_close(value, loss(logits.double(), _valid()).float(), rtol=1e-5, atol=1e-6)


@every_loss
def test_autocast_does_not_lower_the_precision(loss: Loss) -> None:
    logits = _logits(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(logits, _valid())
    assert torch.equal(value, loss(logits, _valid()))


def test_no_label_is_the_label_files_ignore() -> None:
    assert NO_LABEL == IGNORE
