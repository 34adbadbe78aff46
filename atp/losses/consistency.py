"""Consistency of a student with its teacher on hard images (Eq. 10)."""

import torch
from torch import Tensor

from atp.losses.pixels import NO_LABEL
from atp.losses.supervised import pixel_cross_entropy


def consistency_loss(student_logits: Tensor, teacher_labels: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """Cross-entropy between the student on a mixed or augmented image and the teacher on the original one (Eq. 10).

    Args:
        student_logits: logits on the mixed or augmented image, (N, C, H, W), any float dtype; computed in at least
            float32.
        teacher_labels: the teacher's most probable classes, transformed and mixed like the image, 255 = none (padding),
            (N, H, W), int64. They have no gradient: Eq. 10's M' is a constant.
        weight: >= 0, a scalar, per image, (N,), or per pixel, (N, H, W); see ``confidence_share``
            and ``confidence_mask``.

    Returns:
        Scalar >= 0, weighted cross-entropy, nats per labelled pixel; 0 if no pixel is labelled.

    Ours: hard labels, as in ClassMix. Ours: divided by the number of labelled pixels, not by the sum of weights, where
    a weight common to all pixels would cancel.
    """
    if isinstance(weight, Tensor) and weight.ndim == 1:
        weight = weight[:, None, None]
    loss = weight * pixel_cross_entropy(student_logits, teacher_labels)
    return loss.sum() / (teacher_labels != NO_LABEL).sum().clamp_min(1)


@torch.no_grad()
def confidence_share(probabilities: Tensor, threshold: float = 0.968, valid: Tensor | None = None) -> Tensor:
    """Share of each image's pixels on which the teacher is confident: the weight of its consistency loss (ClassMix).

    Args:
        probabilities: the teacher's prediction, (N, C, H, W), any float dtype.
        threshold: in [0, 1].
        valid: False at padding, (N, H, W), bool; None counts every pixel.

    Returns:
        Share of the valid pixels whose highest probability is >= threshold, in [0, 1]; (N,), float32, without
        gradient. 0 for an image without valid pixels.
    """
    sure = probabilities.amax(1) >= threshold
    if valid is None:
        return sure.float().mean((1, 2))
    return (sure & valid).sum((1, 2)) / valid.sum((1, 2)).clamp_min(1)


@torch.no_grad()
def confidence_mask(probabilities: Tensor, threshold: float = 0.95, valid: Tensor | None = None) -> Tensor:
    """Pixels on which the teacher is confident: the weights of their consistency loss (FixMatch, UniMatch).

    Args:
        probabilities: the teacher's prediction, (N, C, H, W), any float dtype.
        threshold: in [0, 1].
        valid: False at padding, (N, H, W), bool; None counts every pixel.

    Returns:
        1 where the highest probability is >= threshold, else 0 and at padding; (N, H, W), float32, without gradient.
    """
    sure = probabilities.amax(1) >= threshold
    return (sure if valid is None else sure & valid).float()
