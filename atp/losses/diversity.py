"""Diversity of predictions, which keeps entropy minimisation from collapsing to a single class (Eq. 3)."""

import math
from typing import Literal

import torch
from torch import Tensor

from atp.losses.entropy import normalized_entropy
from atp.losses.pixels import in_full_precision, mean_where


def diversity_loss(
    logits: Tensor,
    valid: Tensor,
    *,
    sharpness: float = 3.0,
    weighted: bool = True,
    weight_grad: Literal["detach", "full"] = "detach",
    per_image: bool = False,
) -> Tensor:
    """Negative entropy of the predicted class distribution, in which certain pixels have more weight (Eq. 3).

    Args:
        logits: (N, C, H, W), C >= 2, any float dtype; computed in at least float32.
        valid: False at padding, (N, H, W), bool.
        sharpness: the paper's lambda, >= 0, in the weight w = exp(-sharpness * h), h from ``normalized_entropy``.
        weighted: False gives every pixel the weight 1, the paper's L*_div.
        weight_grad: ``detach`` treats the weight w as a constant, ``full`` differentiates through it.
        per_image: average the losses of each image's class distribution, instead of using one distribution for the
            batch (of this process).

    Returns:
        Scalar in [-1, 0], sum(p-hat log p-hat) / log C with p-hat = sum(w p) / sum(w) over valid pixels: -1 if all
        classes are equally frequent, 0 for a single class or if no pixel is valid. Images without valid pixels are
        ignored. Its value does not depend on ``weight_grad``.

    Paper: p-hat is of one image, ``per_image``. Ours: p-hat is divided by the sum of weights, since as printed it is
    not a distribution. Ours: w is a constant in the gradient, as in the authors' code; with ``full``, making pixels of
    frequent classes uncertain also lowers the loss. Ours: divided by log C, so that its weight relative to Eq. 2 does
    not depend on the number of classes.
    """
    logits = in_full_precision(logits)
    tiny = torch.finfo(logits.dtype).tiny
    weight = valid.to(logits.dtype)
    if weighted:
        entropy = normalized_entropy(logits.detach() if weight_grad == "detach" else logits)
        weight = weight * (-sharpness * entropy).exp()
    weight = weight[:, None]  # (N, 1, H, W)
    over = (2, 3) if per_image else (0, 2, 3)
    # Divided before the product: without valid pixels, this gives zeros and no gradient of 0 / 0. The root, since the
    # weight's gradient is a logarithm divided by this sum, which overflows for ``tiny``.
    weight = weight / weight.sum(over, keepdim=True).clamp_min(tiny**0.5)
    frequency = (weight * logits.softmax(1)).sum(over)  # (N, C) or (C,)
    # The clamp changes no value, since 0 log 0 = 0, but avoids the gradient log 0 for an absent class.
    loss = (frequency * frequency.clamp_min(tiny).log()).sum(-1) / math.log(logits.shape[1])
    return mean_where(loss, valid.flatten(1).any(1)) if per_image else loss
