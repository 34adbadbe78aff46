"""Two images in one: ClassMix cuts out half of the classes of one and pastes them onto the other."""

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


def mix(mask: Tensor, pasted: Tensor, onto: Tensor) -> Tensor:
    """``pasted`` where the mask is True, else ``onto``.

    Args:
        mask: (N, H, W), bool.
        pasted, onto: images (N, C, H, W) or maps (N, H, W), of one shape and dtype.
    """
    return torch.where(mask if pasted.ndim == 3 else mask[:, None], pasted, onto)
