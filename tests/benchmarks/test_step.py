"""The three sides of ``benchmarks/step.py`` train the same, so that their times can be compared."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from atp.data.prepared import Store
from atp.method.source import train_source
from atp.models.network import NetworkConfig, SegmentationNetwork, build_network
from atp.training.run import Run
from atp.training.runtime import Runtime


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("step")


RUNTIME = Runtime(torch.device("cpu"))


def network(step: ModuleType) -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(NetworkConfig(backbone="resnet_small", output_stride=4, num_classes=step.CLASSES))


def loss(network: SegmentationNetwork, batch: tuple[Tensor, Tensor]) -> float:
    network.eval()
    with torch.no_grad():
        return float(torch.nn.functional.cross_entropy(network(batch[0][None]), batch[1][None]))


def test_bare_loop_ends_at_atps_weights(step: ModuleType, tmp_path: Path) -> None:
    section = step.settings(2)
    images = step.read(step.draw(tmp_path, 6, (32, 16)), section, Store(tmp_path / "prepared", 2**20))
    ours, bare, start = network(step), network(step), network(step)
    train_source(ours, images, section, Run("step", 0, RUNTIME))
    step.bare(bare, images, section, RUNTIME)
    for name, value in ours.state_dict().items():
        assert torch.equal(value, bare.state_dict()[name]), name
    assert not torch.equal(next(ours.parameters()), next(start.parameters()))


def test_plain_script_reads_the_same_files(step: ModuleType, tmp_path: Path) -> None:
    samples = step.draw(tmp_path, 6, (32, 16))
    pairs = step.Pairs(samples)
    pairs.flip.p, pairs.jitter = 0.0, torch.nn.Identity()
    section = step.settings(2).model_copy(update={"augmentation": step.Augmentation(flip=False)})
    for index, (image, label) in enumerate([pairs[0], pairs[5]]):
        strong, ids = (
            step.read(samples, section, Store(tmp_path / "prepared", 2**20))[5 * index, 0][at] for at in (1, 2)
        )
        assert torch.equal(image, strong)
        assert torch.equal(label, ids.long())


def test_plain_script_trains(step: ModuleType, tmp_path: Path) -> None:
    samples = step.draw(tmp_path, 4, (32, 16))
    trained, start = network(step), network(step)
    step.plain(trained, samples, step.settings(2).model_copy(update={"epochs": 10}), RUNTIME)
    assert loss(trained, step.Pairs(samples)[0]) < loss(start, step.Pairs(samples)[0])


def test_every_side_goes_first_in_turn(step: ModuleType) -> None:
    assert [step.rotated(["a", "b", "c"], turn) for turn in (0, 1, 3)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["a", "b", "c"],
    ]


def test_comparison(step: ModuleType) -> None:
    assert step.compared([(2, 1), (3, 2), (1, 1)]) == ("1.0", "1.500 (1.000-2.000)")
    assert step.compared([(2, 2), (3, 3)]) == ("2.5", "")
