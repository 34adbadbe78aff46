"""ATP's depthwise convolution, forward and backward, against PyTorch's own, in the shapes of EfficientNet-Lite0.

    OMP_NUM_THREADS=1 python benchmarks/depthwise.py [--size 256x192] [--batch 8] [--repeats 7]

Both take turns; the ratio is the median over turns. The last row is a whole training step of the network.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from unittest.mock import patch

import torch
from machine import machine
from torch import Tensor
from torch.nn import functional as F

from atp.losses.supervised import segmentation_cross_entropy
from atp.models import efficientnet
from atp.models.depthwise import depthwise
from atp.models.network import NetworkConfig, build_network

CLASSES = 7


def plain(images: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    return F.conv2d(images, weight, None, stride, 0, dilation, len(weight))


def seconds(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def compared(name: str, one: Callable[[], None], other: Callable[[], None], repeats: int) -> None:
    """Print the milliseconds of both, and the ratio of the second to the first."""
    one()
    other()
    turns = [(seconds(one), seconds(other)) for _ in range(repeats)]
    ours, theirs = (median(side) * 1000 for side in zip(*turns, strict=True))
    print(f"| {name} | {ours:.1f} | {theirs:.1f} | {median(b / a for a, b in turns):.1f} |")


def layer(shape: tuple[int, ...], size: int, stride: int, dilation: int, kind: torch.dtype) -> Callable[..., None]:
    """A forward and backward pass of one layer, by the function that it is called with."""
    images = torch.randn(shape).to(kind).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(shape[1], 1, size, size).to(kind).requires_grad_()
    gradient = torch.randn_like(plain(images, weight, stride, dilation))

    def step(convolve: Callable[..., Tensor]) -> None:
        images.grad = weight.grad = None
        torch.autograd.backward(convolve(images, weight, stride, dilation), gradient)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="256x192")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    width, height = map(int, given.size.split("x"))
    torch.manual_seed(0)
    print(f"{machine()}\n\n| layer | ATP, ms | PyTorch, ms | PyTorch / ATP |\n| --- | --- | --- | --- |")
    layers = ((32, 2, 3, 1, 1), (96, 2, 3, 2, 1), (144, 4, 5, 2, 1), (240, 8, 5, 1, 1), (672, 16, 5, 1, 1))
    for channels, at, size, stride, dilation in (*layers, (1152, 16, 5, 1, 2), (1152, 16, 3, 1, 2)):
        reach = dilation * (size - 1)
        shape = (given.batch, channels, height // at + reach, width // at + reach)
        for kind in (torch.float32, torch.bfloat16):
            step = layer(shape, size, stride, dilation, kind)
            name = f"{channels} channels, {size}x{size}, stride {stride}, dilation {dilation}, {str(kind)[6:]}"
            compared(name, partial(step, depthwise), partial(step, plain), given.repeats)
    config = NetworkConfig(num_classes=CLASSES, backbone="efficientnet_lite0", output_stride=16)
    network = build_network(config).to(memory_format=torch.channels_last)
    pixels = torch.randint(0, 256, (given.batch, 3, height, width), dtype=torch.uint8)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (given.batch, height, width))
    for kind in (torch.float32, torch.bfloat16):

        def whole(kind: torch.dtype = kind) -> None:
            with torch.autocast("cpu", kind, enabled=kind != torch.float32):
                scores = network(pixels)
            torch.autograd.backward(segmentation_cross_entropy(scores.float(), labels))

        def own(whole: Callable[[], None] = whole) -> None:
            with patch.object(efficientnet, "depthwise", plain):
                whole()

        compared(f"whole step, {str(kind)[6:]}", whole, own, given.repeats)


if __name__ == "__main__":
    main()
