"""MIC: ClassMix, and a view with most of its blocks hidden, which learns what the teacher says about the whole image.

Hoyer et al., MIC: Masked Image Consistency for Context-Enhanced Domain Adaptation (CVPR 2023).

Paper: of each image, 70 % of the blocks are hidden after photometric augmentation, by 0 after normalisation; the loss
on them is added with weight 1, and its labels have the same confidence weight as those of the host method, the share
of pixels above .968. Ours: one forward pass for all images, so that BatchNorm's statistics include the hidden ones.
"""

from atp.training.mixing import class_mix_masks as masks
from atp.training.mixing import hidden_blocks
from atp.training.views import Seen, View

__all__ = ["masks", "views"]


def views(seen: Seen) -> list[View]:
    labels = seen.easy.labels
    return [seen.strong.pasted(masks(labels), seen.easy), seen.strong.hidden(hidden_blocks(labels), seen.mean)]
