"""What predictions say of a model without labels: each indicator a pure function of them.

None of them knows the truth. Which of them follows it, and where all fail, is measured in docs/explanation/evidence.md.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.no_grad()
def neighbourhood_density(probabilities: Tensor, temperature: float = 0.05, rows: int = 512) -> Tensor:
    """Soft neighbourhood density: how many others each pixel's prediction is close to; the higher, the better.

    Args:
        probabilities: of sampled pixels, (P, C), P >= 2, float32, >= 0 and summing to 1 over C.
        temperature: by which similarities are divided.
        rows: of the P x P similarities that are in memory at once; changes nothing.

    Returns:
        Scalar in [0, log(P - 1)], nats: the mean entropy of each pixel's similarities to the others as a distribution,
        cosine similarity over ``temperature`` under a softmax. log(P - 1) is reached where all predictions are the
        same: a model that answers one class everywhere is dense too.

    Source: Saito et al., Tune it the Right Way: Unsupervised Validation of Domain Adaptation via Soft Neighborhood
    Density (2021), Eqs. 1 to 3. Ours: a pixel itself is left out of its row; their code gives it the similarity -1.
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
    """How many classes a model uses, if it used them evenly: exp of the entropy of their shares.

    Args:
        shares: of the classes among all pixels, (C,), >= 0, summing to 1.

    Returns:
        Scalar in [1, C].

    Source: Hill's number of order one (Hill 1973); the entropy is that of the mutual information of Bridle et al.
    (1991), which entropy and diversity losses are made of.
    """
    entropy: Tensor = torch.special.entr(shares.double()).sum()
    return entropy.exp()


def marginal_divergence(marginal: Tensor, source: Tensor, floor: float = 1e-4) -> Tensor:
    """How far a model's class marginal is from the source model's: KL(source || model).

    Args:
        marginal: mean probability of each class over all pixels, (C,), summing to 1.
        source: the same of the source model.
        floor: least share, so that a class that is gone counts with source * log(source / floor), not without end.

    Returns:
        Scalar >= 0, nats; 0 where they are equal.

    This way round a class that disappears weighs more than one that comes. Whether a shift is harm or the target's own
    share of classes it cannot tell.
    """
    q, p = (values.double().clamp_min(floor) for values in (marginal, source))
    q, p = q / q.sum(), p / p.sum()
    return (p * (p / q).log()).sum().clamp_min(0)


def class_iou(counts: Tensor) -> Tensor:
    """Agreement of two predictions of the same pixels: intersection over union, mean over all classes.

    Args:
        counts: of pixels by the class in the one (rows) and in the other (columns), (C, C), >= 0.

    Returns:
        Scalar in [0, 1]: 1 where both agree everywhere and every class occurs.

    A rare class counts as much as a frequent one, and a class that neither predicts counts 0. Ours: over the classes
    that occur, a model that answers one class everywhere agrees with itself perfectly, and that mean does not follow
    the truth (docs/explanation/evidence.md).
    """
    counts = counts.double()
    hit = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - hit
    return (hit / union.clamp_min(1)).mean()


def pixel_agreement(counts: Tensor) -> Tensor:
    """Share of the pixels that two predictions give the same class, in [0, 1]; ``counts`` as for ``class_iou``."""
    counts = counts.double()
    return counts.diagonal().sum() / counts.sum()
