"""The schedule's values and who learns how fast."""

import pytest

from atp.models.network import NetworkConfig, build_network
from atp.training.optimisation import build_optimizer, build_schedule
from atp.training.settings import Optimisation

SECTION = Optimisation(epochs=1, batch_size=1, lr=0.1, classifier_lr_factor=10.0, warmup_steps=4)


def test_a_later_part_of_a_schedule_begins_where_the_earlier_one_ended() -> None:
    def rates(steps: range) -> list[float]:
        network = build_network(NetworkConfig(backbone="resnet_small", output_stride=8, num_classes=2))
        optimizer = build_optimizer(network, SECTION)
        schedule = build_schedule(optimizer, SECTION, steps=10, before=steps.start)
        found = []
        for _ in steps:
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return found

    assert rates(range(3)) + rates(range(3, 10)) == rates(range(10))


def test_poly_after_warm_up() -> None:
    network = build_network(NetworkConfig(backbone="resnet_small", output_stride=8, num_classes=2))
    optimizer = build_optimizer(network, SECTION)
    schedule = build_schedule(optimizer, SECTION, steps=10)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        assert optimizer.param_groups[1]["lr"] == pytest.approx(10 * rates[-1])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.1 * 1 / 5)
    assert rates[5] == pytest.approx(0.1 * 0.5**0.9)
    assert optimizer.param_groups[0]["lr"] == 0
