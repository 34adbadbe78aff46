"""MIC: ClassMix, and a view with most of its blocks hidden, which learns what the teacher says about the whole image.

Hoyer et al., MIC: Masked Image Consistency for Context-Enhanced Domain Adaptation (CVPR 2023).

Paper: of each image, 70 % of the blocks are hidden after photometric augmentation, by 0 after normalisation; the loss
on them is added with weight 1, and its labels have the same confidence weight as those of the host method, the share
of pixels above .968. Authors' code (github.com/lhoyer/MIC, commit 2d673279): blocks of 64 pixels in crops of 1024, and
of 32 in crops of 512. Ours: one forward pass for all images, so that BatchNorm's statistics include the hidden ones.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from atp.training.mixing import class_mix_masks as masks
from atp.training.views import Seen, View

__all__ = ["hidden_blocks", "masks", "views"]


def hidden_blocks(labels: Tensor, *, share: float = 0.7, generator: torch.Generator | None = None) -> Tensor:
    """Draw the blocks of each image to hide.

    Args:
        labels: only the shape is used, (N, H, W).
        share: probability of each block.
        generator: CPU generator; None uses PyTorch's default.

    Returns:
        bool, (N, H, W), on the CPU, True where the image is hidden. Blocks are as high and wide as a sixteenth of the
        image's shorter side.
    """
    count, *size = labels.shape
    block = max(1.0, min(size) / 16)
    blocks = torch.rand(count, 1, *(max(1, round(extent / block)) for extent in size), generator=generator) < share
    return F.interpolate(blocks.float(), size, mode="nearest")[:, 0].bool()


def views(seen: Seen) -> list[View]:
    labels = seen.easy.labels
    return [seen.strong.pasted(masks(labels), seen.easy), seen.strong.hidden(hidden_blocks(labels), seen.mean)]
