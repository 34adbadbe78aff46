"""Regional contrast (ReCo): contrastive learning of pixel representations between classes that are easily confused.

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
    """Pull each class's uncertain pixels towards the mean of their class and away from pixels of other classes.

    Args:
        representations: (N, D, H, W), any float dtype; computed in at least float32.
        labels: class ids 0 .. 254, 255 = ignored pixels, (N, H, W), int64.
        confidence: the network's probability of the label, (N, H, W), in [0, 1], without gradient.
        hard: only pixels below this confidence are queries. Paper: .97.
        temperature: > 0, divides the cosine similarities. Paper: .5.
        queries: number drawn from each class, with replacement. Paper: 256.
        negatives: number drawn for each class, with replacement. Paper: 512.
        generator: CPU generator; None uses PyTorch's default.

    Returns:
        Scalar >= 0, nats per query, mean over the classes with queries; 0 without queries, or with fewer than two
        classes.

    Negatives are drawn from the classes in proportion to softmax(cosine similarity of the class means / temperature),
    more often from easily confused classes. Keys (class means and negatives) are constants in the gradient, as in the
    authors' code. Ours: the queries of a class share their negatives, which is much cheaper than drawing them for each
    query and does not change the expectation.
    """
    values = in_full_precision(representations).movedim(1, -1).flatten(0, 2)  # (M, D)
    ids, sure = labels.flatten(), confidence.flatten()
    taking_part = (ids != NO_LABEL).nonzero()[:, 0]
    values, ids, sure = values[taking_part], ids[taking_part], sure[taking_part]
    counts = ids.bincount()
    shown = counts.nonzero()[:, 0]
    counts, own = counts[shown], torch.searchsorted(shown, ids)  # (K,) classes present, (M,) indices into them
    # Zero with a gradient, since processes wait for each other's gradients.
    nothing = values[:0].sum()
    if len(shown) < 2:
        return nothing
    keys = values.detach()
    # A matrix product, since index_add is not deterministic on CUDA.
    members = F.one_hot(own).to(keys.dtype)
    with torch.autocast(keys.device.type, enabled=False):
        means = F.normalize(members.T @ keys / counts[:, None], dim=1)
        affinity = (means @ means.T / temperature).fill_diagonal_(-torch.inf).softmax(1)
    # A pixel's sampling weight is its class's weight divided by the class's number of pixels.
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
    """Contrastive loss of one class's queries against its positive key and negative keys (Liu et al., Eq. 1).

    Args:
        queries: (Q, D); positive: (D,); negatives: (K, D); vectors of any nonzero length.
        temperature: > 0.

    Returns:
        Scalar >= 0, mean over the queries of -log(exp(s+) / (exp(s+) + sum of exp(s-))), where s is the cosine
        similarity divided by the temperature.
    """
    keys = F.normalize(torch.cat([positive[None], negatives]), dim=1)
    # Autocast would compute the matrix product in half precision.
    with torch.autocast(queries.device.type, enabled=False):
        similarity = F.normalize(queries, dim=1) @ keys.T / temperature
    return -similarity.log_softmax(1)[:, 0].mean()
