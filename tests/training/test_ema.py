"""The average trails the weights and takes BatchNorm's statistics along."""

import pytest
import torch

from atp.models.network import NetworkConfig, build_network
from atp.training.ema import AveragedNetwork


def test_average_of_constant_weights_and_statistics() -> None:
    network = build_network(NetworkConfig(backbone="resnet_small", output_stride=8, num_classes=2))
    average = AveragedNetwork(network, decay=0.5)
    with torch.no_grad():
        for value in network.state_dict().values():
            value.fill_(1)
        for value in average.network.state_dict().values():
            value.fill_(0)
    average.update(network)
    state = average.network.state_dict()
    # The first step's decay is 1 / 11: little of the start is kept.
    assert state["backbone.bn1.running_mean"][0] == pytest.approx(10 / 11)
    assert state["backbone.conv1.weight"].flatten()[0] == pytest.approx(10 / 11)
    assert state["backbone.bn1.num_batches_tracked"] == 1
    # Without the ramp, it is the one given.
    constant = AveragedNetwork(network, decay=0.75, ramp=False)
    with torch.no_grad():
        for value in constant.network.state_dict().values():
            value.fill_(0)
    constant.update(network)
    assert constant.network.state_dict()["backbone.conv1.weight"].flatten()[0] == pytest.approx(1 / 4)
    for _ in range(30):
        average.update(network)
    assert state["backbone.conv1.weight"].flatten()[0] == pytest.approx(1, abs=1e-6)
    assert not average.network.training
    assert not any(parameter.requires_grad for parameter in average.network.parameters())
