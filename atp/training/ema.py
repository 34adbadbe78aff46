"""Exponential moving average of a network."""

import copy

import torch

from atp.models.network import SegmentationNetwork


class AveragedNetwork:
    """A second network whose parameters trail the first one's.

    Ours: BatchNorm's running statistics are averaged as well (integer buffers are copied): averaged weights with
    statistics that never moved normalise by the wrong numbers.
    """

    def __init__(self, network: SegmentationNetwork, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self, network: SegmentationNetwork) -> None:
        """Move a step towards ``network``; the decay grows from 0, so that the start is forgotten soon."""
        self.steps += 1
        decay = min(self._decay, self.steps / (self.steps + 10))
        pairs = list(zip(_tensors(self.network), _tensors(network), strict=True))
        moving = [(mine, theirs) for mine, theirs in pairs if mine.is_floating_point()]
        # Documented, for all its underscore; there is no other way to move all tensors at once.
        torch._foreach_lerp_([mine for mine, _ in moving], [theirs for _, theirs in moving], 1 - decay)
        for mine, theirs in pairs:
            if not mine.is_floating_point():
                mine.copy_(theirs)


def _tensors(network: SegmentationNetwork) -> list[torch.Tensor]:
    """Parameters and buffers, each once: a tensor that has two names would be moved twice."""
    return list({value.data_ptr(): value for value in network.state_dict().values()}.values())
