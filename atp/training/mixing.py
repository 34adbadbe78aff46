"""Mixing of two images: ClassMix pastes half of the classes of one image onto the other."""

import torch
from torch import Tensor

from atp.data.labels import IGNORE


def class_mix_masks(labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Masks of the pixels of a random half of each image's classes.

    Args:
        labels: class ids 0 .. 254, 255 = none, (N, H, W), int64.
        generator: random generator; None uses PyTorch's default CPU generator even for labels on another device, so
            that a seed gives the same masks on every device.

    Returns:
        bool, (N, H, W), True for half of the classes in each image, rounded up; False at unlabelled pixels.
    """
    ids = labels.flatten(1)
    shown = torch.zeros(len(labels), IGNORE + 1, dtype=torch.bool, device=labels.device).scatter_(1, ids, True)
    shown[:, IGNORE] = False
    # One number per possible class avoids a loop over images and a synchronisation to count the classes.
    draw = torch.rand(shown.shape, generator=generator, device=generator.device if generator else "cpu")
    order = draw.to(labels.device).masked_fill(~shown, 2).argsort(dim=1, stable=True)
    rank = order.argsort(dim=1)  # rank of each class in the drawn order, absent classes last
    chosen = rank < (shown.sum(1, keepdim=True) + 1) // 2
    return chosen.gather(1, ids).view_as(labels)


def mix(mask: Tensor, pasted: Tensor, onto: Tensor) -> Tensor:
    """``pasted`` where the mask is True, else ``onto``.

    Args:
        mask: (N, H, W), bool.
        pasted, onto: images (N, C, H, W) or maps (N, H, W), of one shape and dtype.
    """
    return torch.where(mask if pasted.ndim == 3 else mask[:, None], pasted, onto)
