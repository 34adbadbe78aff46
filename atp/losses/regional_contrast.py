"""Regional contrast (ReCo): pixels of one class are alike in a learned space, and unlike the classes easily mistaken.

Liu, Zhi, Johns, Davison: Bootstrapping Semantic Segmentation with Regional Contrast (2022), Sec. 3.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from atp.losses.pixels import NO_LABEL, in_full_precision


def regional_contrast_loss(
    representations: Tensor,
    labels: Tensor,
    confidence: Tensor,
    *,
    hard: float = 0.97,
    temperature: float = 0.5,
    queries: int = 256,
    negatives: int = 512,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw each class's uncertain pixels towards the mean of their class and away from pixels of the others.

    Args:
        representations: (N, D, H, W), any float dtype; computed in float32 at least.
        labels: class ids 0 .. 254, 255 = pixels that take no part, (N, H, W), int64.
        confidence: probability that the network gives the label, (N, H, W), in [0, 1], without gradient.
        hard: only pixels below this confidence are queries. Paper: .97.
        temperature: > 0, of the cosine similarities. Paper: .5.
        queries: drawn from each class, with replacement. Paper: 256.
        negatives: drawn for each class, with replacement. Paper: 512.
        generator: on the CPU; None draws from PyTorch's own CPU generator.

    Returns:
        Scalar >= 0, nats per query, mean over the classes that have queries; 0 where there are none, or fewer than two
        classes.

    Negatives come from the classes in proportion to softmax(cosine similarity of the class means / temperature), those
    easily mistaken more often. Keys, the class means and the negatives, are constants in the gradient, as
    in the authors' code. Ours: the queries of a class share their negatives, which costs a small part of drawing them
    for each query anew and changes no expectation.
    """
    values = in_full_precision(representations).movedim(1, -1).flatten(0, 2)  # (M, D)
    ids, sure = labels.flatten(), confidence.flatten()
    taking_part = (ids != NO_LABEL).nonzero()[:, 0]
    values, ids, sure = values[taking_part], ids[taking_part], sure[taking_part]
    counts = ids.bincount()
    shown = counts.nonzero()[:, 0]
    counts, own = counts[shown], torch.searchsorted(shown, ids)  # (K,) of the classes shown, (M,) ids of those
    # A gradient of zeros, for processes that wait for each other's gradients.
    nothing = values[:0].sum()
    if len(shown) < 2:
        return nothing
    keys = values.detach()
    # A matrix product, not index_add: that adds up in any order on CUDA.
    members = F.one_hot(own).to(keys.dtype)
    with torch.autocast(keys.device.type, enabled=False):
        means = F.normalize(members.T @ keys / counts[:, None], dim=1)
        affinity = (means @ means.T / temperature).fill_diagonal_(-torch.inf).softmax(1)
    # Each pixel's chance: that of its class, shared by the pixels of the class.
    chance = ((affinity / counts)[:, own]).cpu()
    losses = []
    for index in range(len(shown)):
        candidates = ((own == index) & (sure < hard)).nonzero()[:, 0]
        if len(candidates) == 0:
            continue
        picked = torch.randint(len(candidates), (queries,), generator=generator).to(keys.device)
        drawn = torch.multinomial(chance[index], negatives, replacement=True, generator=generator).to(keys.device)
        losses.append(contrast(values[candidates[picked]], means[index], keys[drawn], temperature))
    return torch.stack(losses).mean() if losses else nothing


def contrast(queries: Tensor, positive: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """The queries of one class against its key and negative keys (Liu et al., Eq. 1).

    Args:
        queries: (Q, D); positive: (D,); negatives: (K, D), of any lengths but 0.
        temperature: > 0.

    Returns:
        Scalar >= 0, mean over the queries of -log(exp(s+) / (exp(s+) + sum of exp(s-))), s being cosine similarities
        divided by the temperature.
    """
    keys = F.normalize(torch.cat([positive[None], negatives]), dim=1)
    # Products of matrices are what autocast would do in half precision.
    with torch.autocast(queries.device.type, enabled=False):
        similarity = F.normalize(queries, dim=1) @ keys.T / temperature
    return -similarity.log_softmax(1)[:, 0].mean()
