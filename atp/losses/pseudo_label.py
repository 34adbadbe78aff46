"""Self-training on positive (Eq. 5) and negative (Eq. 7) pseudo labels; Eq. 8 adds the two."""

import torch
from torch import Tensor

from atp.losses.pixels import in_full_precision, mean_where
from atp.losses.supervised import pixel_cross_entropy


def positive_pseudo_label_loss(logits: Tensor, positives: Tensor, valid: Tensor) -> Tensor:
    """Teach confident pixels the class they show (Eq. 5).

    Args:
        logits: class scores, (N, C, H, W), any float dtype; computed in float32 at least.
        positives: class ids below C (Eq. 4), 255 = none, (N, H, W), int64.
        valid: False at padding, (N, H, W), bool; a label there does not count.

    Returns:
        Scalar >= 0, nats per valid pixel; 0 where nothing is labelled or valid.

    Ours: mean over VALID pixels, labelled or not, where Eq. 5 sums: the pixel count of Eq. 7. A mean over the labelled
    ones would let each positive label weigh more the fewer of them a crop happens to hold, and so shift Eq. 8's balance
    between positive and negative labels from crop to crop.
    """
    return mean_where(pixel_cross_entropy(logits, positives), valid)


def negative_pseudo_label_loss(logits: Tensor, negatives: Tensor, valid: Tensor) -> Tensor:
    """Teach each pixel which classes it does not show (Eq. 7).

    Args:
        logits: class scores, (N, C, H, W), C >= 2, any float dtype; computed in float32 at least.
        negatives: True where a class is absent (Eq. 6), (N, C, H, W), bool.
        valid: False at padding, (N, H, W), bool; labels there do not count.

    Returns:
        Scalar >= 0, sum of -log(1 - p) over the negative labels, nats per valid pixel; 0 where nothing is valid.

    Ours: mean over valid pixels where Eq. 7 sums, with the pixel count of Eq. 5, so that crop size does not set Eq. 8's
    balance. Ours: above p = 3/4, log(1 - p) is taken from the other classes' logits. There p soon rounds to 1, and
    log1p(-p) is infinite or, clamped, without slope just where a negative label has most to say: about a class that the
    network came to be sure of after the labels were dumped. As with cross-entropy, the loss then grows with the logit,
    and the gradient with respect to each logit stays within [-1, 1] per label.
    """
    log_p = in_full_precision(logits).log_softmax(1)
    p = log_p.exp()
    # At most one class of a pixel. Below 3/4, log1p(-p) loses no digits and its slope is at most 4.
    sure = p.detach() > 0.75
    # log(1 - p) of that class is what the others hold together.
    log_others = log_p.masked_fill(sure, -torch.inf).logsumexp(1)  # (N, H, W)
    # Masked before the log, so that the log of 0 is never taken.
    log_absent = torch.log1p(-p.where(negatives & ~sure, 0)).sum(1) + log_others.where((negatives & sure).any(1), 0)
    return mean_where(-log_absent, valid)
