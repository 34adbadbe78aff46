"""CutMix: a box of the easy image, of any place and shape.

Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features (2019); for
segmentation French et al., Semi-supervised semantic segmentation needs strong, varied perturbations (2020), Sec. 3.3:
the box covers half of the image, its proportions are drawn evenly on a logarithmic scale.
"""

import math

import torch
from torch import Tensor


def masks(labels: Tensor, *, share: float = 0.5, generator: torch.Generator | None = None) -> Tensor:
    """A box in each image, whatever its labels.

    Args:
        labels: (N, H, W).
        share: of the image that the box covers, in (0, 1).
        generator: on the CPU; None draws from PyTorch's own.

    Returns:
        bool, (N, H, W), on the CPU, True in the box.
    """
    count, height, width = labels.shape
    draw = torch.rand(3, count, 1, generator=generator)
    # Of height and width together they cut off the share's logarithm; the draw says how much of it is the height's.
    tall = (draw[0] * math.log(share)).exp()
    inside = []
    for extent, part, place in ((height, tall, draw[1]), (width, share / tall, draw[2])):
        length = (part * extent).round()
        start = (place * (extent - length)).round()
        position = torch.arange(extent)
        inside.append((position >= start) & (position < start + length))
    return inside[0][:, :, None] & inside[1][:, None, :]
