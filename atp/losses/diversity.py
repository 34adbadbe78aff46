"""Diversity of predictions: keeps entropy minimisation from answering with one class everywhere (Eq. 3)."""

import math

import torch
from torch import Tensor

from atp.losses.entropy import normalized_entropy
from atp.losses.pixels import in_full_precision, mean_where


def diversity_loss(
    logits: Tensor, valid: Tensor, *, sharpness: float = 3.0, weighted: bool = True, per_image: bool = False
) -> Tensor:
    """Spread the predicted classes, counting certain pixels more (Eq. 3).

    Args:
        logits: class scores, (N, C, H, W), C >= 2, any float dtype; computed in float32 at least.
        valid: False at padding, (N, H, W), bool.
        sharpness: the paper's lambda, >= 0: a pixel weighs w = exp(-sharpness * h), h from ``normalized_entropy``.
        weighted: False gives every pixel the weight 1, the paper's L*_div.
        per_image: take the class distribution of each image and average the images' losses, rather than one
            distribution over the batch (of this process).

    Returns:
        Scalar in [-1, 0], sum(p-hat log p-hat) / log C with p-hat = sum(w p) / sum(w) over valid pixels: -1 where all
        classes are equally frequent, 0 where there is but one class, or nothing valid. Images without valid pixels
        count for nothing.

    Paper: p-hat is of one image, ``per_image``. Ours: p-hat is divided by the weights' sum, since as printed it is no
    distribution and its entropy no entropy. Ours: w is a constant in the gradient, else the loss could also be lowered
    by making pixels of frequent classes uncertain. Ours: divided by log C, so that its weight against Eq. 2 means
    the same for any number of classes.
    """
    logits = in_full_precision(logits)
    tiny = torch.finfo(logits.dtype).tiny
    weight = valid.to(logits.dtype)
    if weighted:
        weight = weight * (-sharpness * normalized_entropy(logits.detach())).exp()
    weight = weight[:, None]  # (N, 1, H, W)
    over = (2, 3) if per_image else (0, 2, 3)
    # Divided before the product, outside the gradient: nothing valid then leaves zeros, and no slope of 0 / 0.
    weight = weight / weight.sum(over, keepdim=True).clamp_min(tiny)
    frequency = (weight * logits.softmax(1)).sum(over)  # (N, C) or (C,)
    # The clamp changes no value, 0 log 0 being 0, but a class that is nowhere must not have the slope log 0.
    loss = (frequency * frequency.clamp_min(tiny).log()).sum(-1) / math.log(logits.shape[1])
    return mean_where(loss, valid.flatten(1).any(1)) if per_image else loss
