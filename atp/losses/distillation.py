"""Distillation from a source model of which only the predictions are known (Eq. 11)."""

import torch
from torch import Tensor

from atp.losses.pixels import NO_LABEL, in_full_precision, mean_where


def distillation_loss(logits: Tensor, target_probabilities: Tensor, valid: Tensor) -> Tensor:
    """Predict what the source model predicts: KL(source || target) (Eq. 11).

    Args:
        logits: class scores of the target model, (N, C, H, W), any float dtype; computed in float32 at least.
        target_probabilities: the source model's predictions, which are what to learn, (N, C, H, W), any float dtype,
            >= 0 and summing to 1 over C, without gradient. Soft, the k greatest scaled to sum to 1, or one-hot, which
            makes the loss cross-entropy.
        valid: False at padding or where the source gave no prediction, (N, H, W), bool.

    Returns:
        Scalar >= 0, nats per valid pixel; 0 where the predictions are equal or nothing is valid.

    Ours: mean over valid pixels. PyTorch's ``batchmean`` divides by N alone and is H * W too large.
    """
    log_p = in_full_precision(logits).log_softmax(1)
    target = in_full_precision(target_probabilities)
    # xlogy knows that 0 log 0 = 0.
    return mean_where((torch.xlogy(target, target) - target * log_p).sum(1), valid)


def dense_probabilities(classes: Tensor, probabilities: Tensor, num_classes: int) -> Tensor:
    """Probabilities of all classes from those of the most probable ones.

    Args:
        classes: ids, each at most once a pixel, (..., k, H, W), any integer type; 255 names no class.
        probabilities: of those, (..., k, H, W), >= 0, each pixel's sum <= 1.
        num_classes: C.

    Returns:
        (..., C, H, W), each pixel's sum 1: what is missing to 1 is spread evenly over the classes that are not named,
        or where all are over them as they stand. Zeros where no class is named.
    """
    named = classes != NO_LABEL
    # One plane more, for what names no class.
    index = classes.long().where(named, num_classes)
    shape = (*classes.shape[:-3], num_classes + 1, *classes.shape[-2:])
    known = torch.zeros(shape, dtype=torch.bool, device=classes.device).scatter_(-3, index, True)
    dense = probabilities.new_zeros(shape).scatter_(-3, index, probabilities.where(named, 0))
    known, dense = known.narrow(-3, 0, num_classes), dense.narrow(-3, 0, num_classes)
    missing = (1 - dense.sum(-3, keepdim=True)).clamp_min(0)
    unnamed = ~known & named.any(-3, keepdim=True)
    dense = dense + unnamed * missing / unnamed.sum(-3, keepdim=True).clamp_min(1)
    return dense / dense.sum(-3, keepdim=True).clamp_min(torch.finfo(dense.dtype).tiny)
