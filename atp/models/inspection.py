"""Detection of untrained classifier branches in a checkpoint."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from atp.models.layouts import to_our_names
from atp.models.network import NetworkConfig

LIVE_SIGMAS = 6.0
"""Deviation from independent noise, in standard errors, that counts as trained (probability about 2 in 10**9)."""


def live_aspp_branches(state: Mapping[str, Tensor], config: NetworkConfig) -> list[int]:
    """Indices of the classifier's trained branches; the others still contain their initial noise.

    Public DeepLabV2 code that returns inside its loop over the branches never uses the third and fourth. Its
    checkpoints give [0, 1], and summing all four branches only adds noise to the logits. An untrained head gives [].

    Initial weights are independent, trained ones are not: the nine inputs of a dilated convolution are similar, and so
    are its updates, and a class that is rarer than the noise predicts gets lower weights throughout. A branch is live
    if one of these deviates from independence by more than ``LIVE_SIGMAS`` standard errors:

    - the sums over the nine taps have nine times a single weight's variance (more if taps are correlated);
    - the mean weight of every class is zero (each class tested with its own standard error).

    Neither depends on the scale or distribution of the weights, and so not on weight decay, half precision or the
    initialisation. With C * D = 40 000 pairs of class and feature (ResNet-101, 19 classes), training is detected once
    updates reach 7 % of the initial noise, with 1 000 pairs (the small network) 17 %.

    Args:
        state: state dict of ATP, or of public code in a layout that ``load_into`` accepts.
        config: configuration with the number of branches.
    """
    ours = to_our_names(state)
    weights = {n: ours.get(f"classifier.branches.{n}.weight") for n in range(len(config.aspp_dilations))}
    return [n for n, weight in weights.items() if weight is not None and _is_trained(weight)]


def _is_trained(weight: Tensor) -> bool:
    """Whether a weight (C, D, 3, 3) differs from independent noise."""
    taps = weight.detach().to("cpu", torch.float64).flatten(2)
    classes, channels, count = taps.shape
    variance = float(taps.square().mean())
    if variance == 0:
        return False
    ratio = float(taps.sum(2).square().mean()) / (count * variance)
    together = (ratio - 1) / math.sqrt(2 / (classes * channels))
    means = taps.mean((1, 2)) / math.sqrt(variance / (channels * count))
    return max(together, float(means.abs().max())) > LIVE_SIGMAS
