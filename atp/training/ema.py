"""Exponential moving average of a network."""

import copy

import torch

from atp.models.network import SegmentationNetwork


class AveragedNetwork:
    """A copy of a network whose parameters are the moving average of the network's.

    Ours: BatchNorm's running statistics are averaged as well, since averaged weights need matching statistics. Integer
    buffers are copied.
    """

    def __init__(self, network: SegmentationNetwork, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self, network: SegmentationNetwork) -> None:
        """Update the average with ``network``; the decay rises from near 0, so that early weights are forgotten."""
        self.steps += 1
        decay = min(self._decay, self.steps / (self.steps + 10))
        pairs = list(zip(_tensors(self.network), _tensors(network), strict=True))
        moving = [(mine, theirs) for mine, theirs in pairs if mine.is_floating_point()]
        # Documented despite its underscore; there is no other way to interpolate all tensors in one call.
        torch._foreach_lerp_([mine for mine, _ in moving], [theirs for _, theirs in moving], 1 - decay)
        for mine, theirs in pairs:
            if not mine.is_floating_point():
                mine.copy_(theirs)


def _tensors(network: SegmentationNetwork) -> list[torch.Tensor]:
    """Parameters and buffers, each once, since a tensor with two names would be updated twice."""
    return list({value.data_ptr(): value for value in network.state_dict().values()}.values())
