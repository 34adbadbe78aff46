"""Class-balanced self-training (CBST): pseudo labels and the loss that both they and the network minimise.

Zou et al., Unsupervised Domain Adaptation for Semantic Segmentation via Class-Balanced Self-Training (2018).
"""

from torch import Tensor

from atp.losses.pixels import NO_LABEL, mean_where
from atp.losses.supervised import pixel_cross_entropy


def class_balanced_labels(probabilities: Tensor, thresholds: Tensor, valid: Tensor) -> Tensor:
    """The labels that minimise ``class_balanced_loss``.

    Args:
        probabilities: predictions, (N, C, H, W), any float dtype.
        thresholds: exp(-k_c) of each class, (C,), > 0: the confidence that a given portion of the pixels predicted as
            that class reach; infinite for a class that shall have no labels.
        valid: False at padding, (N, H, W), bool.

    Returns:
        Class ids, 255 = none, (N, H, W), int64: the class whose probability is the greatest multiple of its threshold,
        where that is at least 1.

    Unlike Eq. 4's, which are the most probable class or none: a pixel that is not sure enough of a frequent class may
    be labelled as a rare one. Ours: at least 1 where the paper has more than 1, since a threshold that saturates at 1
    would select nothing.
    """
    multiple, labels = (probabilities / thresholds[:, None, None].to(probabilities.dtype)).max(1)
    return labels.masked_fill(~valid | (multiple < 1), NO_LABEL)


def class_balanced_loss(logits: Tensor, labels: Tensor, thresholds: Tensor, valid: Tensor) -> Tensor:
    """Learn pseudo labels, a pixel's label being worth as much as it is above its class's threshold.

    Args:
        logits: class scores, (N, C, H, W), any float dtype; computed in float32 at least.
        labels: class ids below C, 255 = none, (N, H, W), int64.
        thresholds: as for ``class_balanced_labels``, finite for every class that is labelled.
        valid: False at padding, (N, H, W), bool; a label there does not count.

    Returns:
        Scalar, -log(p / threshold) of the labelled pixels, nats per valid pixel: below 0 where the labelled pixels are
        more certain than their thresholds, 0 where nothing is labelled or valid.

    With the labels fixed the thresholds are constants, and its gradient is that of Eq. 5. Ours: the source domain's
    cross-entropy, which the paper adds, is not to be had; mean over valid pixels where it sums.
    """
    loss = pixel_cross_entropy(logits, labels)
    labelled = labels != NO_LABEL
    of_label = thresholds.to(loss.dtype).log()[labels.where(labelled, 0)]
    return mean_where(loss + of_label.where(labelled, 0), valid)
