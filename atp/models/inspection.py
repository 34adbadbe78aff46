"""What a checkpoint's numbers give away about how it was made."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from atp.models.layouts import to_our_names
from atp.models.network import NetworkConfig

LIVE_SIGMAS = 6.0
"""So far from what independent noise does by chance (about 2 in 10**9) counts as trained."""


def live_aspp_branches(state: Mapping[str, Tensor], config: NetworkConfig) -> list[int]:
    """Branches of the classifier that have been trained, by index; the others still hold their initial noise.

    Public DeepLabV2 code that returns inside its loop over the branches never uses the third and fourth: a checkpoint
    made by it says [0, 1], and adding up all four then only adds noise to its scores. An untrained head says [].

    Initial weights are drawn one by one, trained ones are not independent: a dilated convolution's nine inputs look
    alike, so its updates do as well, and a class that is rarer than the noise predicts gets lower weights throughout.
    A branch is live if one of these two deviates from independence by more than ``LIVE_SIGMAS`` standard errors:

    - the sums over the nine taps have nine times a single weight's variance (more, where taps move together);
    - the mean weight of every class is zero (each class tested, on its own standard error).

    Neither asks how large the weights are or how they were drawn, so that weight decay, half precision and other
    initialisations change nothing. With C * D = 40 000 pairs of class and feature (ResNet-101, 19 classes) training is
    seen once its updates reach 7 % of the initial noise, with 1 000 (the small network) 17 %.

    Args:
        state: ours, or one of public code in the layouts that ``load_into`` takes.
        config: says how many branches there are.
    """
    ours = to_our_names(state)
    weights = {n: ours.get(f"classifier.branches.{n}.weight") for n in range(len(config.aspp_dilations))}
    return [n for n, weight in weights.items() if weight is not None and _is_trained(weight)]


def _is_trained(weight: Tensor) -> bool:
    """Weight (C, D, 3, 3) is not independent noise."""
    taps = weight.detach().to("cpu", torch.float64).flatten(2)
    classes, channels, count = taps.shape
    variance = float(taps.square().mean())
    if variance == 0:
        return False
    ratio = float(taps.sum(2).square().mean()) / (count * variance)
    together = (ratio - 1) / math.sqrt(2 / (classes * channels))
    means = taps.mean((1, 2)) / math.sqrt(variance / (channels * count))
    return max(together, float(means.abs().max())) > LIVE_SIGMAS
