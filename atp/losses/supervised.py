"""Cross-entropy with labels that are taken as true: source training (Eq. 1), and what the other losses build on."""

from torch import Tensor
from torch.nn import functional as F

from atp.losses.pixels import NO_LABEL, in_full_precision


def pixel_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each pixel.

    Args:
        logits: class scores, (N, C, H, W), any float dtype; computed in float32 at least.
        labels: class ids below C, 255 = none, (N, H, W), int64.

    Returns:
        (N, H, W), >= 0, nats; 0 where there is no label.
    """
    # Summed by the caller: on CUDA the summing kernels are not deterministic, this one is.
    return F.cross_entropy(in_full_precision(logits), labels, ignore_index=NO_LABEL, reduction="none")


def segmentation_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Learn the labels (Eq. 1).

    Args:
        logits: class scores, (N, C, H, W), any float dtype; computed in float32 at least.
        labels: class ids below C, 255 = none, (N, H, W), int64.

    Returns:
        Scalar >= 0, nats per labelled pixel.

    Ours: 0, with a gradient of zeros, where no pixel is labelled; PyTorch's own mean is NaN there, and one unlabelled
    crop would end the training.
    """
    return pixel_cross_entropy(logits, labels).sum() / (labels != NO_LABEL).sum().clamp_min(1)
