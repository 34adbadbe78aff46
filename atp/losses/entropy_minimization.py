"""Entropy minimisation, as TENT and ADVENT's MinEnt do it: Eq. 2 without its curriculum."""

from torch import Tensor

from atp.losses.entropy import normalized_entropy
from atp.losses.pixels import mean_where


def entropy_loss(logits: Tensor, valid: Tensor) -> Tensor:
    """Make every prediction certain.

    Vu et al., ADVENT: Adversarial Entropy Minimization for Domain Adaptation in Semantic Segmentation (2019), Eqs. 2
    and 3: the entropy of each pixel divided by log C. Wang et al., Tent: Fully Test-Time Adaptation by Entropy
    Minimization (2021), Sec. 3.1: the same in nats.

    Args:
        logits: class scores, (N, C, H, W), C >= 2, any float dtype; computed in float32 at least.
        valid: False at padding, (N, H, W), bool.

    Returns:
        Scalar in [0, 1], mean of entropy / log C over valid pixels; 0 where nothing is valid.

    Ours: mean over valid pixels, where ADVENT's Eq. 3 sums and its code takes the mean over all. Ours: for TENT divided
    by log C too, so that a learning rate means the same for any number of classes.
    """
    return mean_where(normalized_entropy(logits), valid)
