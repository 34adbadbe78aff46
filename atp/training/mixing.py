"""Mixing of two images, where ClassMix pastes half of the classes of one onto the other; and hiding parts of one."""

import torch
from torch import Tensor
from torch.nn import functional as F

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


def hidden_blocks(
    labels: Tensor, *, share: float = 0.7, side: float = 1 / 16, generator: torch.Generator | None = None
) -> Tensor:
    """Draw the blocks of each image to hide, as MIC does.

    Args:
        labels: only the shape is used, (N, H, W).
        share: probability that a block is hidden.
        side: of a block, relative to the image's shorter side.
        generator: CPU generator; None uses PyTorch's default.

    Returns:
        bool, (N, H, W), on the CPU, True where the image is hidden.

    Authors' code (github.com/lhoyer/MIC, commit 2d673279): blocks of 64 pixels in crops of 1024, and of 32 in crops of
    512.
    """
    count, *size = labels.shape
    block = max(1.0, side * min(size))
    blocks = torch.rand(count, 1, *(max(1, round(extent / block)) for extent in size), generator=generator) < share
    return F.interpolate(blocks.float(), size, mode="nearest")[:, 0].bool()


def hide(mask: Tensor, images: Tensor, mean: Tensor) -> Tensor:
    """Images, uint8, (N, 3, H, W), in one color where the mask (N, H, W) is True.

    Args:
        mean: the color by which the network normalises, in [0, 1], (1, 3, 1, 1), so that it sees 0 there.
    """
    return mix(mask.to(images.device), (255 * mean).round().to(images), images)
