"""Label-free indicators of a model's quality, as pure functions of its predictions.

docs/explanation/evidence.md measures which of them correlate with mIoU, and where all fail.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.no_grad()
def neighbourhood_density(probabilities: Tensor, temperature: float = 0.05, rows: int = 512) -> Tensor:
    """Soft neighbourhood density: the number of similar predictions for each pixel; higher is better.

    Args:
        probabilities: predictions of sampled pixels, (P, C), P >= 2, float32, >= 0 and summing to 1 over C.
        temperature: divides the similarities.
        rows: number of rows of the P x P similarities in memory at once; does not affect the result.

    Returns:
        Scalar in [0, log(P - 1)], nats: the mean entropy of each pixel's distribution over the others, the softmax of
        cosine similarity / ``temperature``. Identical predictions give log(P - 1), so a model that predicts a single
        class also has a high density.

    Source: Saito et al., Tune it the Right Way: Unsupervised Validation of Domain Adaptation via Soft Neighborhood
    Density (2021), Eqs. 1 to 3. Ours: a pixel is excluded from its own row; their code sets its similarity to -1.
    """
    features = F.normalize(probabilities.float(), dim=1)
    total = features.new_zeros((), dtype=torch.float64)
    for first in range(0, len(features), rows):
        similarity = features[first : first + rows] @ features.T / temperature
        own = torch.arange(len(similarity), device=similarity.device)
        similarity[own, first + own] = -torch.inf
        total += torch.special.entr(similarity.softmax(1)).sum(dtype=torch.float64)
    return total / len(features)


def effective_classes(shares: Tensor) -> Tensor:
    """Effective number of predicted classes: the exponential of the entropy of their shares.

    Args:
        shares: share of each class among all pixels, (C,), >= 0, summing to 1.

    Returns:
        Scalar in [1, C].

    Source: Hill's number of order one (Hill 1973); the entropy is a term of the mutual information of Bridle et al.
    (1991), on which entropy and diversity losses are based.
    """
    entropy: Tensor = torch.special.entr(shares.double()).sum()
    return entropy.exp()


def marginal_divergence(marginal: Tensor, source: Tensor, floor: float = 1e-4) -> Tensor:
    """Divergence of a model's class marginal from the source model's: KL(source || model).

    Args:
        marginal: mean probability of each class over all pixels, (C,), summing to 1.
        source: class marginal of the source model, (C,).
        floor: minimum share, which limits the contribution of a vanished class to source * log(source / floor).

    Returns:
        Scalar >= 0, nats; 0 if they are equal.

    In this direction, a class that disappears has more weight than one that appears. It cannot distinguish harm from
    the target domain's different class shares.
    """
    q, p = (values.double().clamp_min(floor) for values in (marginal, source))
    q, p = q / q.sum(), p / p.sum()
    return (p * (p / q).log()).sum().clamp_min(0)


def class_iou(counts: Tensor) -> Tensor:
    """Agreement of two predictions of the same pixels: intersection over union, averaged over all classes.

    Args:
        counts: pixels by the class in the first (rows) and second prediction (columns), (C, C), >= 0.

    Returns:
        Scalar in [0, 1]: 1 if both agree everywhere and every class occurs.

    Rare and frequent classes have equal weight, and a class in neither prediction counts as 0. Ours: a mean over only
    the classes that occur would be 1 for a model that predicts a single class, and does not correlate with mIoU
    (docs/explanation/evidence.md).
    """
    counts = counts.double()
    hit = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - hit
    return (hit / union.clamp_min(1)).mean()


def pixel_agreement(counts: Tensor) -> Tensor:
    """Share of the pixels on which two predictions agree, in [0, 1]; ``counts`` as in ``class_iou``."""
    counts = counts.double()
    return counts.diagonal().sum() / counts.sum()
