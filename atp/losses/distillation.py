"""Distillation from a source model of which only the predictions are known (Eq. 11)."""

import torch
from torch import Tensor

from atp.losses.pixels import in_full_precision, mean_where


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
