"""UBNA's momentum, and the statistics it leads to."""

import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from atp.baselines.ubna import Settings, align, momentum
from atp.data.folder import list_samples
from atp.data.loading import Images
from atp.data.settings import Augmentation
from atp.models.network import NetworkConfig, SegmentationNetwork
from atp.training.run import Run
from atp.training.runtime import Runtime

CPU = Runtime(torch.device("cpu"))


class OneLayer(SegmentationNetwork):
    """A BatchNorm layer on the images themselves."""

    def __init__(self) -> None:
        super().__init__(NetworkConfig(num_classes=3, mean=(0, 0, 0), std=(1, 1, 1)))
        self.norm, self.classifier = nn.BatchNorm2d(3, momentum=0.3), nn.Identity()

    def scores(self, images: Tensor) -> Tensor:
        return self.classifier(self.norm(images))


def settings(**own: float) -> Settings:
    return Settings(epochs=1, lr=1.0, **own)


def test_momentum_by_hand() -> None:
    assert momentum(0, settings()) == pytest.approx(0.1)
    assert momentum(10, settings()) == pytest.approx(0.1 * math.exp(-0.8))
    assert momentum(3, settings(first_momentum=0.5, momentum_decay=0.0)) == 0.5


def test_statistics_are_blended_with_less_of_each_batch(tmp_path: Path) -> None:
    # Batches of two images of one grey value each, so that every order gives the same statistics.
    for number in range(4):
        Image.new("RGB", (4, 4), (51, 51, 51)).save(tmp_path / f"{number}.png")
    network = OneLayer()
    network.norm.running_mean.fill_(1.0)
    images = Images(list_samples(tmp_path)).augmented(Augmentation(flip=False))
    align(network, images, settings(batches=5, batch_size=2), Run("align", 7, CPU))
    # The images' mean is .2, their variance 0; five batches are more than one pass over the images.
    kept = math.prod(1 - 0.1 * math.exp(-0.08 * number) for number in range(5))
    assert network.norm.running_mean.numpy() == pytest.approx(0.2 + kept * 0.8)
    assert network.norm.running_var.numpy() == pytest.approx(kept)
    assert network.norm.num_batches_tracked == 5
    assert network.norm.momentum == 0.3
    assert not network.norm.training


def test_images_are_drawn_by_the_seed(tmp_path: Path) -> None:
    for number in range(8):
        Image.new("RGB", (4, 4), (30 * number,) * 3).save(tmp_path / f"{number}.png")
    images = Images(list_samples(tmp_path)).augmented(Augmentation(flip=False))
    means = []
    for seed in (1, 1, 2):
        network = OneLayer()
        align(network, images, settings(batches=2, batch_size=2), Run("align", seed, CPU))
        means.append(network.norm.running_mean[0].item())
    assert means[0] == means[1] != means[2]
