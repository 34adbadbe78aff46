"""Depthwise convolution with its own gradients."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from atp.models import depthwise as module
from atp.models.depthwise import depthwise
from atp.models.network import NetworkConfig, build_network

CASES = list(itertools.product((3, 5), (1, 2), (1, 2)))


def plain(images: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    return F.conv2d(images, weight, None, stride, 0, dilation, len(weight))


def given(size: int, kind: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    # Sizes of which a stride of 2 leaves a row or column over.
    images = torch.randn(2, 6, 17, 20, dtype=kind).contiguous(memory_format=torch.channels_last)
    return images.requires_grad_(), torch.randn(6, 1, size, size, dtype=kind).requires_grad_()


@pytest.mark.parametrize(("size", "stride", "dilation"), CASES)
def test_gradients_are_those_of_pytorch(size: int, stride: int, dilation: int) -> None:
    ours, theirs = given(size), given(size)
    convolved, expected = depthwise(*ours, stride, dilation), plain(*theirs, stride, dilation)
    assert "_Depthwise" in type(convolved.grad_fn).__name__
    assert torch.equal(convolved, expected)
    gradient = torch.randn_like(expected)
    convolved.backward(gradient)
    expected.backward(gradient)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("frozen", [0, 1])
def test_what_is_frozen_has_no_gradient(frozen: int) -> None:
    both = given(5)
    both[frozen].requires_grad_(requires_grad=False)
    depthwise(*both, 1, 2).sum().backward()
    assert both[frozen].grad is None
    assert both[1 - frozen].grad is not None


def test_autocast_decides_the_precision_and_gradients_have_that_of_the_weights() -> None:
    images, weight = given(5, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        convolved = depthwise(images, weight, 1, 1)
        assert torch.equal(convolved, plain(images, weight, 1, 1))
    assert convolved.dtype == torch.bfloat16
    convolved.float().sum().backward()
    assert (images.grad.dtype, weight.grad.dtype) == (torch.float32, torch.float32)  # type: ignore[union-attr]


def test_images_in_another_order_take_pytorch_s_gradients() -> None:
    images, weight = given(5)
    assert "_Depthwise" not in type(depthwise(images.contiguous(), weight, 1, 1).grad_fn).__name__


def test_the_network_s_gradients_are_those_of_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    config = NetworkConfig(num_classes=3, backbone="efficientnet_lite0", output_stride=16)
    torch.manual_seed(0)
    network = build_network(config).double().to(memory_format=torch.channels_last)
    pixels = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)

    def gradients() -> list[Tensor]:
        network.zero_grad()
        network(pixels).square().mean().backward()
        return [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]

    used = []
    real = module._of_weight
    monkeypatch.setattr(module, "_of_weight", lambda *given: used.append(1) or real(*given))
    ours = gradients()
    assert len(used) == 16
    monkeypatch.setattr("atp.models.efficientnet.depthwise", plain)
    for one, other in zip(ours, gradients(), strict=True):
        torch.testing.assert_close(one, other)
