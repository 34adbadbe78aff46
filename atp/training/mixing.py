"""Two images in one: ClassMix cuts out half of the classes, CutMix a box, and pastes them onto another image."""

import math

import torch
from torch import Tensor

from atp.data.labels import IGNORE


def class_mix_masks(labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Where the pixels of a random half of each image's classes are.

    Args:
        labels: class ids 0 .. 254, 255 = none, (N, H, W), int64.
        generator: what to draw from; None draws from PyTorch's own CPU generator, on whatever device the labels are, so
            that a seed means the same masks everywhere.

    Returns:
        bool, (N, H, W). Of the classes that an image shows, half, rounded up, are True; pixels without a label never.
    """
    ids = labels.flatten(1)
    shown = torch.zeros(len(labels), IGNORE + 1, dtype=torch.bool, device=labels.device).scatter_(1, ids, True)
    shown[:, IGNORE] = False
    # One number for every class there might be: no loop over images, and no wait for the device to count classes.
    draw = torch.rand(shown.shape, generator=generator, device=generator.device if generator else "cpu")
    order = draw.to(labels.device).masked_fill(~shown, 2).argsort(dim=1, stable=True)
    rank = order.argsort(dim=1)  # place of each class in the drawn order, those not shown behind all others
    chosen = rank < (shown.sum(1, keepdim=True) + 1) // 2
    return chosen.gather(1, ids).view_as(labels)


def cut_mix_masks(
    count: int, height: int, width: int, *, share: float = 0.5, generator: torch.Generator | None = None
) -> Tensor:
    """A box in each image, of any place and shape.

    Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features (2019); for
    segmentation French et al., Semi-supervised semantic segmentation needs strong, varied perturbations (2020), Sec.
    3.3: the box covers half of the image, its proportions are drawn evenly on a logarithmic scale.

    Args:
        count, height, width: N, H, W.
        share: of the image that the box covers, in (0, 1).
        generator: on the CPU; None draws from PyTorch's own.

    Returns:
        bool, (N, H, W), on the CPU, True in the box.
    """
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


def mix(mask: Tensor, pasted: Tensor, onto: Tensor) -> Tensor:
    """``pasted`` where the mask is True, else ``onto``.

    Args:
        mask: (N, H, W), bool.
        pasted, onto: images (N, C, H, W) or maps (N, H, W), of one shape and dtype.
    """
    return torch.where(mask if pasted.ndim == 3 else mask[:, None], pasted, onto)
