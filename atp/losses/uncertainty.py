"""Uncertainty reduction (URMA): features from which decoders read the same, whatever part of them is missing."""

from collections.abc import Sequence

import torch
from torch import Tensor

from atp.losses.pixels import in_full_precision, mean_where


def uncertainty_loss(auxiliary: Sequence[Tensor], logits: Tensor, valid: Tensor) -> Tensor:
    """Decoders on thinned-out features agree with the one on all of them.

    Sivaprasad, Fleuret: Uncertainty Reduction for Model Adaptation in Semantic Segmentation (2021), Sec. 3: squared
    difference of the softmax outputs, summed over the decoders; the authors' code takes the mean over pixels and
    classes.

    Args:
        auxiliary: class scores of the decoders whose features went through dropout, each (N, C, H, W), any float dtype;
            computed in float32 at least.
        logits: class scores of the network itself, (N, C, H, W): what to agree with, without gradient.
        valid: False at padding, (N, H, W), bool.

    Returns:
        Scalar in [0, 2 K / C] for K decoders, without a unit, mean over valid pixels and classes; 0 where they agree or
        nothing is valid.
    """
    target = in_full_precision(logits).detach().softmax(1)
    losses = [mean_where(((in_full_precision(own).softmax(1) - target) ** 2).mean(1), valid) for own in auxiliary]
    return torch.stack(losses).sum()
