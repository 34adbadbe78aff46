"""Diversity of predictions, which keeps entropy minimisation from collapsing to a single class (Eq. 3)."""

import math

import torch
from torch import Tensor

from atp.losses.entropy import normalized_entropy
from atp.losses.pixels import in_full_precision, mean_where


def diversity_loss(
    logits: Tensor, valid: Tensor, *, sharpness: float = 3.0, weighted: bool = True, per_image: bool = False
) -> Tensor:
    """Negative entropy of the predicted class distribution, in which certain pixels have more weight (Eq. 3).

    Args:
        logits: (N, C, H, W), C >= 2, any float dtype; computed in at least float32.
        valid: False at padding, (N, H, W), bool.
        sharpness: the paper's lambda, >= 0, in the weight w = exp(-sharpness * h), h from ``normalized_entropy``.
        weighted: False gives every pixel the weight 1, the paper's L*_div.
        per_image: average the losses of each image's class distribution, instead of using one distribution for the
            batch (of this process).

    Returns:
        Scalar in [-1, 0], sum(p-hat log p-hat) / log C with p-hat = sum(w p) / sum(w) over valid pixels: -1 if all
        classes are equally frequent, 0 for a single class or if no pixel is valid. Images without valid pixels are
        ignored.

    Paper: p-hat is of one image, ``per_image``. Ours: p-hat is divided by the sum of weights, since as printed it is
    not a distribution. Ours: w is a constant in the gradient; otherwise, making pixels of frequent classes uncertain
    would also lower the loss. Ours: divided by log C, so that its weight relative to Eq. 2 does not depend on the
    number of classes.
    """
    logits = in_full_precision(logits)
    tiny = torch.finfo(logits.dtype).tiny
    weight = valid.to(logits.dtype)
    if weighted:
        weight = weight * (-sharpness * normalized_entropy(logits.detach())).exp()
    weight = weight[:, None]  # (N, 1, H, W)
    over = (2, 3) if per_image else (0, 2, 3)
    # Divided before the product, outside the gradient: without valid pixels, this gives zeros and no gradient of 0 / 0.
    weight = weight / weight.sum(over, keepdim=True).clamp_min(tiny)
    frequency = (weight * logits.softmax(1)).sum(over)  # (N, C) or (C,)
    # The clamp changes no value, since 0 log 0 = 0, but avoids the gradient log 0 for an absent class.
    loss = (frequency * frequency.clamp_min(tiny).log()).sum(-1) / math.log(logits.shape[1])
    return mean_where(loss, valid.flatten(1).any(1)) if per_image else loss
