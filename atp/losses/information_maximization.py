"""Information maximisation (SHOT): each pixel certain, all pixels together diverse."""

from torch import Tensor

from atp.losses.diversity import diversity_loss
from atp.losses.entropy_minimization import entropy_loss


def information_maximization_loss(logits: Tensor, valid: Tensor, *, diversity: float = 1.0) -> Tensor:
    """Entropy of the predictions less the entropy of their mean.

    Liang, Hu, Feng: Do We Really Need to Access the Source Data? Source Hypothesis Transfer for Unsupervised Domain
    Adaptation (2020), Eq. 3: L_ent + L_div, the negative mutual information of pixel and class.

    Args:
        logits: class scores, (N, C, H, W), C >= 2, any float dtype; computed in float32 at least.
        valid: False at padding, (N, H, W), bool.
        diversity: weight of L_div, >= 0. Paper: 1.

    Returns:
        Scalar in [-diversity, 1], a share of log C; -1 for certain pixels of equally many classes, 0 where nothing is
        valid.

    Paper: images, here pixels; p-hat is the mean over the batch (of this process). Ours: both terms divided by log C,
    which leaves their balance as it is.
    """
    return entropy_loss(logits, valid) + diversity * diversity_loss(logits, valid, weighted=False)
