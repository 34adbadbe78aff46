"""Exponential moving average of a network."""

import copy
from typing import Any

import torch

from atp.models.network import SegmentationNetwork


class AveragedNetwork:
    """A copy of a network whose parameters are the moving average of the network's.

    Ours: BatchNorm's running statistics are averaged as well, since averaged weights need matching statistics. Integer
    buffers are copied.

    Args:
        decay: share of the average that an update keeps.
        ramp: let the decay rise from near 0, so that early weights are forgotten.
    """

    def __init__(self, network: SegmentationNetwork, decay: float, *, ramp: bool = True) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay, self._ramp = decay, ramp
        self.steps = 0

    @torch.no_grad()
    def update(self, network: SegmentationNetwork) -> None:
        """Update the average with ``network``."""
        self.steps += 1
        decay = min(self._decay, self.steps / (self.steps + 10)) if self._ramp else self._decay
        pairs = list(zip(_tensors(self.network), _tensors(network), strict=True))
        moving = [(mine, theirs) for mine, theirs in pairs if mine.is_floating_point()]
        # Documented despite its underscore; there is no other way to interpolate all tensors in one call.
        torch._foreach_lerp_([mine for mine, _ in moving], [theirs for _, theirs in moving], 1 - decay)
        for mine, theirs in pairs:
            if not mine.is_floating_point():
                mine.copy_(theirs)

    def state_dict(self) -> dict[str, Any]:
        """What training saves to resume."""
        return {"steps": self.steps, "network": self.network.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        self.network.load_state_dict(state["network"])


def _tensors(network: SegmentationNetwork) -> list[torch.Tensor]:
    """Parameters and buffers, each once, since a tensor with two names would be updated twice."""
    return list({value.data_ptr(): value for value in network.state_dict().values()}.values())
