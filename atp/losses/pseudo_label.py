"""Self-training on positive (Eq. 5) and negative (Eq. 7) pseudo labels; Eq. 8 adds the two."""

import torch
from torch import Tensor

from atp.losses.pixels import in_full_precision, mean_where
from atp.losses.supervised import pixel_cross_entropy


def positive_pseudo_label_loss(logits: Tensor, positives: Tensor, valid: Tensor) -> Tensor:
    """Cross-entropy with positive pseudo labels (Eq. 5).

    Args:
        logits: (N, C, H, W), any float dtype; computed in at least float32.
        positives: class ids below C (Eq. 4), 255 = none, (N, H, W), int64.
        valid: False at padding, (N, H, W), bool; labels there are ignored.

    Returns:
        Scalar >= 0, nats per valid pixel; 0 if no pixel is labelled or valid.

    Ours: mean over VALID pixels, labelled or not, where Eq. 5 sums: the same pixel count as in Eq. 7. A mean over
    labelled pixels would give each positive label more weight in crops with few of them, and Eq. 8's balance between
    positive and negative labels would vary with the crop.
    """
    return mean_where(pixel_cross_entropy(logits, positives), valid)


def negative_pseudo_label_loss(logits: Tensor, negatives: Tensor, valid: Tensor) -> Tensor:
    """Negative log-likelihood of the absence of classes, with negative pseudo labels (Eq. 7).

    Args:
        logits: (N, C, H, W), C >= 2, any float dtype; computed in at least float32.
        negatives: True where a class is absent (Eq. 6), (N, C, H, W), bool.
        valid: False at padding, (N, H, W), bool; labels there are ignored.

    Returns:
        Scalar >= 0, sum of -log(1 - p) over the negative labels, nats per valid pixel; 0 if no pixel is valid.

    Ours: mean over valid pixels where Eq. 7 sums, with the pixel count of Eq. 5, so that Eq. 8's balance does not
    depend on the crop size. Ours: above p = 3/4, log(1 - p) is computed from the other classes' logits. There, p soon
    rounds to 1, and log1p(-p) is infinite or, clamped, has no gradient where a negative label matters most: for a class
    of which the network became certain after the labels were dumped. As in cross-entropy, the loss then grows with the
    logit, and the gradient with respect to each logit stays within [-1, 1] per label.
    """
    log_p = in_full_precision(logits).log_softmax(1)
    p = log_p.exp()
    # True for at most one class per pixel. Below 3/4, log1p(-p) is accurate and its derivative is at most 4.
    sure = p.detach() > 0.75
    # 1 - p of that class is the sum of the others.
    log_others = log_p.masked_fill(sure, -torch.inf).logsumexp(1)  # (N, H, W)
    # Masked before the log to avoid log 0.
    log_absent = torch.log1p(-p.where(negatives & ~sure, 0)).sum(1) + log_others.where((negatives & sure).any(1), 0)
    return mean_where(-log_absent, valid)
