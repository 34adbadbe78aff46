"""Consistency of a student with its teacher on hard images (Eq. 10)."""

import torch
from torch import Tensor

from atp.losses.pixels import NO_LABEL
from atp.losses.supervised import pixel_cross_entropy


def consistency_loss(student_logits: Tensor, teacher_labels: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """Answer on a changed image as the teacher answers on the image as it is (Eq. 10).

    Args:
        student_logits: class scores on the mixed or augmented image, (N, C, H, W), any float dtype; computed in float32
            at least.
        teacher_labels: most probable classes by the teacher, changed and mixed as the image was, 255 = none (padding),
            (N, H, W), int64. They carry no gradient: Eq. 10's M' is a constant.
        weight: >= 0, of all images, of each, (N,), or of each pixel, (N, H, W); see ``confidence_share``.

    Returns:
        Scalar >= 0, weighted cross-entropy, nats per labelled pixel; 0 where no pixel is labelled.

    Ours: hard labels, as in ClassMix. Ours: divided by the number of labelled pixels, not by the sum of weights, in
    which a weight common to all pixels would cancel.
    """
    if isinstance(weight, Tensor) and weight.ndim == 1:
        weight = weight[:, None, None]
    loss = weight * pixel_cross_entropy(student_logits, teacher_labels)
    return loss.sum() / (teacher_labels != NO_LABEL).sum().clamp_min(1)


@torch.no_grad()
def confidence_share(probabilities: Tensor, threshold: float = 0.968, valid: Tensor | None = None) -> Tensor:
    """How sure the teacher is of each image: the weight of its consistency loss, as in ClassMix.

    Args:
        probabilities: the teacher's prediction, (N, C, H, W), any float dtype.
        threshold: in [0, 1].
        valid: False at padding, (N, H, W), bool; None counts every pixel.

    Returns:
        Share of the valid pixels whose greatest probability is >= threshold, in [0, 1]; (N,), float32, without
        gradient. 0 for an image without valid pixels.
    """
    sure = probabilities.amax(1) >= threshold
    if valid is None:
        return sure.float().mean((1, 2))
    return (sure & valid).sum((1, 2)) / valid.sum((1, 2)).clamp_min(1)
