"""Entropy of predictions: the curriculum loss of the align stage (Eq. 2) and the ranking of images (Eq. 9)."""

import math
from typing import Literal

import torch
from torch import Tensor

from atp.losses.pixels import in_full_precision, mean_where


def normalized_entropy(logits: Tensor) -> Tensor:
    """Entropy of each pixel's prediction, divided by its maximum for C classes.

    Args:
        logits: (N, C, H, W), C >= 2, any float dtype; computed in at least float32.

    Returns:
        h = entropy / log C, in [0, 1], dimensionless; (N, H, W), float32 (float64 for float64 logits).
        0 is a certain prediction, 1 a uniform one.

    Ours: normalised, where the paper uses nats. In nats, h reaches 2.94 for C = 19, where 1 - h is negative.
    """
    log_p = in_full_precision(logits).log_softmax(1)
    # A saturated class gives 0 times a finite number, also in the gradient. The clamp corrects rounding errors.
    return ((log_p.exp() * log_p).sum(1) / -math.log(logits.shape[1])).clamp(0, 1)


def curriculum_entropy_loss(
    logits: Tensor, valid: Tensor, *, gamma: float = 3.0, weight_grad: Literal["detach", "full"] = "detach"
) -> Tensor:
    """Entropy minimisation with a curriculum weight that favours confident pixels (Eq. 2 without its factor alpha).

    Args:
        logits: (N, C, H, W), C >= 2, any float dtype; computed in at least float32.
        valid: False at padding, (N, H, W), bool.
        gamma: >= 0; higher values give uncertain pixels less weight. 0 is plain entropy minimisation.
        weight_grad: ``detach`` treats the curriculum weight (1 - h)^gamma as a constant, ``full`` differentiates
            through it.

    Returns:
        Scalar in [0, 1], mean of (1 - h)^gamma * h over valid pixels with h from ``normalized_entropy``; 0 if no pixel
        is valid. Its value does not depend on ``weight_grad``.

    Paper: h in nats, gamma = 3. Ours: h normalised, since 1 - h is negative above one nat, which makes the uniform
    prediction the minimum for an odd gamma. Ours: weight detached. The derivative with ``full`` is
    (1 - h)^(gamma - 1) * (1 - (1 + gamma) h), which pushes every pixel above h = 1 / (1 + gamma) to MORE entropy;
    ``rising_entropy_share`` is their share. Ours: mean over valid pixels, so that the balance with Eq. 3 does not
    depend on the crop size.
    """
    entropy = normalized_entropy(logits)
    certainty = 1 - (entropy.detach() if weight_grad == "detach" else entropy)
    # At 0, a power below 1 has an infinite derivative, which times the uniform pixel's zero gradient is NaN. Whether
    # the clamp in ``normalized_entropy`` prevents this depends on the version of PyTorch.
    weight = certainty.clamp_min(torch.finfo(certainty.dtype).eps) ** gamma
    return mean_where(weight * entropy, valid)


def entropy_loss(logits: Tensor, valid: Tensor) -> Tensor:
    """Entropy minimisation.

    Vu et al., ADVENT: Adversarial Entropy Minimization for Domain Adaptation in Semantic Segmentation (2019), Eqs. 2
    and 3: the entropy of each pixel divided by log C. Wang et al., Tent: Fully Test-Time Adaptation by Entropy
    Minimization (2021), Sec. 3.1: the same in nats.

    Args:
        logits: (N, C, H, W), C >= 2, any float dtype; computed in at least float32.
        valid: False at padding, (N, H, W), bool.

    Returns:
        Scalar in [0, 1], mean of entropy / log C over valid pixels; 0 if no pixel is valid.

    Ours: mean over valid pixels, where ADVENT's Eq. 3 sums and its code averages over all pixels. Ours: divided by
    log C for TENT too, so that the learning rate does not depend on the number of classes.
    """
    return mean_where(normalized_entropy(logits), valid)


@torch.no_grad()
def rising_entropy_share(logits: Tensor, valid: Tensor, gamma: float) -> Tensor:
    """Share of pixels that Eq. 2's full gradient makes less certain: those with h > 1 / (1 + gamma).

    Args:
        logits: (N, C, H, W), C >= 2, any float dtype; computed in at least float32.
        valid: False at padding, (N, H, W), bool.
        gamma: exponent of the curriculum weight, >= 0.

    Returns:
        Scalar in [0, 1], share of the valid pixels, without gradient; 0 if no pixel is valid.
    """
    return mean_where((normalized_entropy(logits) > 1 / (1 + gamma)).float(), valid)


@torch.no_grad()
def mean_entropy(probabilities: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean normalised entropy of each image (Eq. 9); easy images have low entropy.

    Args:
        probabilities: predictions, possibly averaged, (N, C, H, W), C >= 2, any float dtype, >= 0 and summing to 1
            over C; computed in at least float32.
        valid: False at padding, (N, H, W), bool; None counts every pixel.

    Returns:
        Mean over valid pixels of entropy / log C, in [0, 1]; (N,), without gradient. 0 for an image without valid
        pixels.
    """
    # entr(p) is -p log p, with 0 log 0 = 0.
    entropy: Tensor = torch.special.entr(in_full_precision(probabilities)).sum(1) / math.log(probabilities.shape[1])
    if valid is None:
        return entropy.mean((1, 2)).clamp(0, 1)
    return (entropy.where(valid, 0).sum((1, 2)) / valid.sum((1, 2)).clamp_min(1)).clamp(0, 1)
