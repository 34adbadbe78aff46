"""Depthwise convolution with gradients that are quick on a CPU.

PyTorch's own gradients there (oneDNN) are quick for few kernels only: those of a 5x5 kernel in bf16, with a stride or
with dilation, take 20 to 100 times as long as the convolution. ``benchmarks/depthwise.py`` has the figures.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

QUICK_KERNEL = 3
"""Largest kernel whose weights' gradient PyTorch computes quickly, without dilation."""


def depthwise(images: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """Convolve each channel with its own kernel, without padding; the same values as ``F.conv2d``.

    The gradients are the quick ones on a CPU, of images in channels-last order.

    Args:
        images: float, (N, C, H, W).
        weight: float, (C, 1, k, k).

    Returns:
        (N, C, h, w), in the precision of autocast.
    """
    ordered = images.is_contiguous(memory_format=torch.channels_last)
    if images.device.type != "cpu" or not torch.is_grad_enabled() or not ordered:
        return F.conv2d(images, weight, None, stride, 0, dilation, len(weight))
    if torch.is_autocast_enabled("cpu"):
        kind = torch.get_autocast_dtype("cpu")
        images, weight = images.to(kind), weight.to(kind)
    convolved: Tensor = _Depthwise.apply(images, weight, stride, dilation)
    return convolved


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.stride, ctx.dilation = stride, dilation
        return F.conv2d(images, weight, None, stride, 0, dilation, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        images, weight = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            of_images = of_weight = None
            if ctx.needs_input_grad[0]:
                of_images = _of_images(gradient, images, weight, ctx.stride, ctx.dilation)
            if ctx.needs_input_grad[1]:
                of_weight = _of_weight(gradient, images, weight, ctx.stride, ctx.dilation)
        return of_images, of_weight, None, None


def _of_images(gradient: Tensor, images: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """A convolution with the mirrored kernel, of the gradient with ``stride - 1`` zeros between its values."""
    reach = dilation * (weight.shape[-1] - 1)
    count, channels, height, width = images.shape
    spread = gradient.new_zeros(count, height + reach, width + reach, channels).permute(0, 3, 1, 2)
    bottom, right = (reach + stride * (length - 1) + 1 for length in gradient.shape[2:])
    spread[:, :, reach:bottom:stride, reach:right:stride] = gradient
    return F.conv2d(spread, weight.flip(2, 3), None, 1, 0, dilation, len(weight))


def _of_weight(gradient: Tensor, images: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """For each position of the kernel, the sum of the pixels that it met times the gradient there."""
    size = weight.shape[-1]
    if size <= QUICK_KERNEL and dilation == 1:
        settings = ([0], [stride] * 2, [0, 0], [dilation] * 2, False, [0, 0], len(weight), [False, True, False])
        found: Tensor = torch.ops.aten.convolution_backward(gradient, images, weight, *settings)[1]
        return found
    # Channels last: each product and sum goes through memory in order.
    pixels, weighted = images.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)
    height, width = gradient.shape[2:]
    rows = [slice(dilation * i, dilation * i + stride * (height - 1) + 1, stride) for i in range(size)]
    columns = [slice(dilation * j, dilation * j + stride * (width - 1) + 1, stride) for j in range(size)]
    sums = [(pixels[:, row, column] * weighted).sum((0, 1, 2)) for row in rows for column in columns]
    return torch.stack(sums, dim=1).view_as(weight)
