"""Scores of every pixel from networks that classify masks: MaskFormer, Mask2Former, EoMT."""

import torch
from torch import Tensor

LEAST = 1e-20
"""Floor of the summed probabilities: lower ones have no finite gradient in float32 and no effect on a softmax."""


def query_scores(classes: Tensor, masks: Tensor) -> Tensor:
    """Class scores of every pixel from queries that each have a class and a mask (MaskFormer's semantic inference).

    A query's probabilities of the classes, without the one for "no object", times the probability that its mask covers
    the pixel, summed over the queries, rank the pixel's classes. These sums add up to any number between 0 and Q. Their
    logarithm is returned, because losses, thresholds and ``class_map`` take logits: its softmax is each sum's share
    of the total, the only distribution that is proportional to the sums, its argmax is theirs, and adding the
    probabilities of mapped classes adds the sums. Where no query covers a pixel, the shares still tell them apart.

    Cheng, Schwing, Kirillov: Per-Pixel Classification is Not All You Need for Semantic Segmentation, 2021, Section 3.4.
    Ours: computed at the masks' resolution; the caller interpolates the logarithms, which needs C instead of Q maps
    of the image's size. The published code interpolates the masks (Mask2Former, EoMT) or the sums (MaskFormer).

    Args:
        classes: logits of each query's class, (N, Q, C + 1), the last one for "no object".
        masks: logits of each query's mask, (N, Q, h, w).

    Returns:
        (N, C, h, w), float32, at least log 1e-20 and at most log Q.
    """
    # In float32: autocast would sum in half precision, whose relative error the logarithm turns into an absolute one.
    with torch.autocast(classes.device.type, enabled=False):
        probabilities = classes.float().softmax(-1)[..., :-1]
        sums = torch.einsum("nqc,nqhw->nchw", probabilities, masks.float().sigmoid())
        return sums.clamp_min(LEAST).log()
