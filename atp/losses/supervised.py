"""Cross-entropy with labels: the loss of source training (Eq. 1), and the basis of other losses."""

from torch import Tensor
from torch.nn import functional as F

from atp.losses.pixels import NO_LABEL, in_full_precision


def pixel_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each pixel.

    Args:
        logits: (N, C, H, W), any float dtype; computed in at least float32.
        labels: class ids below C, 255 = none, (N, H, W), int64.

    Returns:
        (N, H, W), >= 0, nats; 0 at unlabelled pixels.
    """
    # Not reduced here, because PyTorch's reducing kernels are not deterministic on CUDA.
    return F.cross_entropy(in_full_precision(logits), labels, ignore_index=NO_LABEL, reduction="none")


def segmentation_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over labelled pixels (Eq. 1).

    Args:
        logits: (N, C, H, W), any float dtype; computed in at least float32.
        labels: class ids below C, 255 = none, (N, H, W), int64.

    Returns:
        Scalar >= 0, nats per labelled pixel.

    Ours: 0 with zero gradient if no pixel is labelled. PyTorch's mean is then NaN, and a single unlabelled crop would
    end the training.
    """
    return pixel_cross_entropy(logits, labels).sum() / (labels != NO_LABEL).sum().clamp_min(1)
