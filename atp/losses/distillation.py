"""Distillation from a source model that is available only through its predictions (Eq. 11)."""

import torch
from torch import Tensor

from atp.losses.pixels import NO_LABEL, in_full_precision, mean_where


def distillation_loss(logits: Tensor, target_probabilities: Tensor, valid: Tensor) -> Tensor:
    """KL divergence of the target model's predictions from the source model's, KL(source || target) (Eq. 11).

    Args:
        logits: logits of the target model, (N, C, H, W), any float dtype; computed in at least float32.
        target_probabilities: the source model's predictions, the targets to learn, (N, C, H, W), any float dtype,
            >= 0 and summing to 1 over C, without gradient. Soft, the top k scaled to sum to 1, or one-hot, which
            reduces the loss to cross-entropy.
        valid: False at padding or where the source gave no prediction, (N, H, W), bool.

    Returns:
        Scalar >= 0, nats per valid pixel; 0 if the predictions are equal or no pixel is valid.

    Ours: mean over valid pixels. PyTorch's ``batchmean`` divides only by N, which is too large by a factor H * W.
    """
    log_p = in_full_precision(logits).log_softmax(1)
    target = in_full_precision(target_probabilities)
    # xlogy defines 0 log 0 = 0.
    return mean_where((torch.xlogy(target, target) - target * log_p).sum(1), valid)


def dense_probabilities(classes: Tensor, probabilities: Tensor, num_classes: int) -> Tensor:
    """Expand top-k probabilities to probabilities of all classes.

    Args:
        classes: ids, each at most once per pixel, (..., k, H, W), any integer type; 255 = no class.
        probabilities: their probabilities, (..., k, H, W), >= 0, with a sum <= 1 per pixel.
        num_classes: C.

    Returns:
        (..., C, H, W), with a sum of 1 per pixel: the remaining probability is spread evenly over the other classes;
        if k covers all classes, their probabilities are rescaled. Zeros where no class is given.
    """
    named = classes != NO_LABEL
    # One more plane, for entries without a class.
    index = classes.long().where(named, num_classes)
    shape = (*classes.shape[:-3], num_classes + 1, *classes.shape[-2:])
    known = torch.zeros(shape, dtype=torch.bool, device=classes.device).scatter_(-3, index, True)
    dense = probabilities.new_zeros(shape).scatter_(-3, index, probabilities.where(named, 0))
    known, dense = known.narrow(-3, 0, num_classes), dense.narrow(-3, 0, num_classes)
    missing = (1 - dense.sum(-3, keepdim=True)).clamp_min(0)
    unnamed = ~known & named.any(-3, keepdim=True)
    dense = dense + unnamed * missing / unnamed.sum(-3, keepdim=True).clamp_min(1)
    return dense / dense.sum(-3, keepdim=True).clamp_min(torch.finfo(dense.dtype).tiny)
