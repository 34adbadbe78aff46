"""Entropy of predictions: the curriculum loss of the align stage (Eq. 2) and the ranking of images (Eq. 9)."""

import math
from typing import Literal

import torch
from torch import Tensor

from atp.losses.pixels import in_full_precision, mean_where


def normalized_entropy(logits: Tensor) -> Tensor:
    """How undecided each pixel is, as a share of the greatest entropy that C classes allow.

    Args:
        logits: class scores, (N, C, H, W), C >= 2, any float dtype; computed in float32 at least.

    Returns:
        h = entropy / log C, in [0, 1], without a unit; (N, H, W), float32 (float64 for float64 logits).
        0 is a certain pixel, 1 a uniform one.

    Ours: a share where the paper has nats. In nats h reaches 2.94 for C = 19, and a loss with 1 - h in it turns over.
    """
    log_p = in_full_precision(logits).log_softmax(1)
    # A saturated class gives 0 * a large finite number, which is 0, in the gradient too. Rounding alone leaves [0, 1].
    return ((log_p.exp() * log_p).sum(1) / -math.log(logits.shape[1])).clamp(0, 1)


def curriculum_entropy_loss(
    logits: Tensor, valid: Tensor, *, gamma: float = 3.0, weight_grad: Literal["detach", "full"] = "detach"
) -> Tensor:
    """Make predictions certain, those first that nearly are (Eq. 2, without its factor alpha).

    Args:
        logits: class scores, (N, C, H, W), C >= 2, any float dtype; computed in float32 at least.
        valid: False at padding, (N, H, W), bool.
        gamma: >= 0; the greater, the less uncertain pixels count. 0 is plain entropy minimisation.
        weight_grad: ``detach`` treats the curriculum weight (1 - h)^gamma as a constant, ``full`` lets the gradient
            through it.

    Returns:
        Scalar in [0, 1], mean of (1 - h)^gamma * h over valid pixels with h from ``normalized_entropy``; 0 where
        nothing is valid. Its value is the same for both ``weight_grad``.

    Paper: h in nats, gamma = 3. Ours: h normalised, since 1 - h is negative above one nat, which makes the uniform
    prediction the minimum for an odd gamma. Ours: weight detached. Its slope is
    (1 - h)^(gamma - 1) * (1 - (1 + gamma) h), so with ``full`` every pixel above h = 1 / (1 + gamma) is pushed to MORE
    entropy; ``rising_entropy_share`` says how many. Ours: mean over valid pixels, so that crop size does not set the
    balance with Eq. 3.
    """
    entropy = normalized_entropy(logits)
    certainty = 1 - (entropy.detach() if weight_grad == "detach" else entropy)
    # At 0 a power below 1 has an infinite slope, and the uniform pixel's zero gradient times that is NaN. Whether
    # the clamp in ``normalized_entropy`` happens to stop it depends on PyTorch's version.
    weight = certainty.clamp_min(torch.finfo(certainty.dtype).eps) ** gamma
    return mean_where(weight * entropy, valid)


def entropy_loss(logits: Tensor, valid: Tensor) -> Tensor:
    """Make every prediction certain.

    Vu et al., ADVENT: Adversarial Entropy Minimization for Domain Adaptation in Semantic Segmentation (2019), Eqs. 2
    and 3: the entropy of each pixel divided by log C. Wang et al., Tent: Fully Test-Time Adaptation by Entropy
    Minimization (2021), Sec. 3.1: the same in nats.

    Args:
        logits: class scores, (N, C, H, W), C >= 2, any float dtype; computed in float32 at least.
        valid: False at padding, (N, H, W), bool.

    Returns:
        Scalar in [0, 1], mean of entropy / log C over valid pixels; 0 where nothing is valid.

    Ours: mean over valid pixels, where ADVENT's Eq. 3 sums and its code takes the mean over all. Ours: for TENT divided
    by log C too, so that a learning rate means the same for any number of classes.
    """
    return mean_where(normalized_entropy(logits), valid)


@torch.no_grad()
def rising_entropy_share(logits: Tensor, valid: Tensor, gamma: float) -> Tensor:
    """Share of pixels that Eq. 2's full gradient would make less certain: those with h > 1 / (1 + gamma).

    Args:
        logits: class scores, (N, C, H, W), C >= 2, any float dtype; computed in float32 at least.
        valid: False at padding, (N, H, W), bool.
        gamma: exponent of the curriculum weight, >= 0.

    Returns:
        Scalar in [0, 1], share of the valid pixels, without gradient; 0 where nothing is valid.
    """
    return mean_where((normalized_entropy(logits) > 1 / (1 + gamma)).float(), valid)


@torch.no_grad()
def mean_entropy(probabilities: Tensor, valid: Tensor | None = None) -> Tensor:
    """How undecided a model is about each image (Eq. 9); the less, the easier the image.

    Args:
        probabilities: predictions, perhaps averaged ones, (N, C, H, W), C >= 2, any float dtype, >= 0 and summing to 1
            over C; computed in float32 at least.
        valid: False at padding, (N, H, W), bool; None counts every pixel.

    Returns:
        Mean over valid pixels of entropy / log C, in [0, 1]; (N,), without gradient. 0 for an image without valid
        pixels.
    """
    # entr is -p log p with 0 log 0 = 0.
    entropy: Tensor = torch.special.entr(in_full_precision(probabilities)).sum(1) / math.log(probabilities.shape[1])
    if valid is None:
        return entropy.mean((1, 2)).clamp(0, 1)
    return (entropy.where(valid, 0).sum((1, 2)) / valid.sum((1, 2)).clamp_min(1)).clamp(0, 1)
