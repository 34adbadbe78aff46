"""UniMatch: two strong views with boxes of easy images, and a view whose features lose half of their channels.

Yang et al., Revisiting Weak-to-Strong Consistency in Semi-Supervised Semantic Segmentation (CVPR 2023).

Paper: both strong views and the feature view learn the labels of one weak view, with weights 1/4, 1/4 and 1/2; labels
count where their probability is at least .95, which is ``propagate.confidence: 0.95`` here. Authors' code
(github.com/LiheYoung/UniMatch, commit 7292bace): half of the views get a box of .02 to .4 of the image's area; the sum
of all losses is divided by 2, which here is half the learning rate; dropout before the ASPP and on the low-level
features. Ours: dropout at the input of the classifier, on all of its feature maps, whatever the network is. Ours: boxes
of easy images with their pseudo labels, where UniMatch pastes other unlabelled images. Ours: the teacher is that of
``propagate.ema`` in evaluation mode; UniMatch has the network itself in training mode, and no average.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from atp.losses.consistency import confidence_mask as confidence
from atp.training.views import Seen, View

__all__ = ["SECOND_VIEW", "confidence", "masks", "views"]

SECOND_VIEW = True


def masks(labels: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw a random box in half of the images, independent of their labels.

    Args:
        labels: only the shape is used, (N, H, W).
        generator: CPU generator; None uses PyTorch's default.

    Returns:
        bool, (N, H, W), on the CPU, True in the box, whose area is uniform in [.02, .4] of the image.

    Ours: the ratio of height to width is relative to the image's, uniform on a logarithmic scale from .3 to 1/.3, and
    limited to what fits; the authors draw it uniformly, for square crops, and repeat until the box fits.
    """
    count, height, width = labels.shape
    draw = torch.rand(5, count, 1, generator=generator)
    area = 0.02 + 0.38 * draw[0]
    # With this limit, neither side is longer than the image's.
    most = (-area.log()).clamp_max(math.log(1 / 0.3))
    ratio = ((2 * draw[1] - 1) * most).exp()
    inside = []
    for extent, part, place in ((height, (area * ratio).sqrt(), draw[2]), (width, (area / ratio).sqrt(), draw[3])):
        length = (part * extent).round()
        start = (place * (extent - length)).round()
        position = torch.arange(extent)
        inside.append((position >= start) & (position < start + length))
    return inside[0][:, :, None] & inside[1][:, None, :] & (draw[4] < 0.5)[:, :, None]


def views(seen: Seen) -> list[View]:
    strong = [view.pasted(masks(seen.easy.labels), seen.easy) for view in (seen.strong, seen.second)]
    return [*(replace(view, weight=0.25) for view in strong), replace(seen.weak, weight=0.5, dropout=0.5)]
