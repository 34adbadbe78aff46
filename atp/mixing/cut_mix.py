"""CutMix: paste a box of the easy image at a random position and aspect ratio.

Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features (2019); for
segmentation French et al., Semi-supervised semantic segmentation needs strong, varied perturbations (2020), Sec. 3.3:
the box covers half of the image, its proportions are uniform on a logarithmic scale.
"""

import math

import torch
from torch import Tensor


def masks(labels: Tensor, *, share: float = 0.5, generator: torch.Generator | None = None) -> Tensor:
    """Draw a random box in each image, independent of its labels.

    Args:
        labels: only the shape is used, (N, H, W).
        share: share of the image covered by the box, in (0, 1).
        generator: CPU generator; None uses PyTorch's default.

    Returns:
        bool, (N, H, W), on the CPU, True in the box.
    """
    count, height, width = labels.shape
    draw = torch.rand(3, count, 1, generator=generator)
    # log(height) + log(width) = log(share), relative to the image; the draw is the height's part of the sum.
    tall = (draw[0] * math.log(share)).exp()
    inside = []
    for extent, part, place in ((height, tall, draw[1]), (width, share / tall, draw[2])):
        length = (part * extent).round()
        start = (place * (extent - length)).round()
        position = torch.arange(extent)
        inside.append((position >= start) & (position < start + length))
    return inside[0][:, :, None] & inside[1][:, None, :]
