"""Averaged predictions, chunks that never change, and BatchNorm's statistics."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from atp.data.folder import Sample, list_samples
from atp.data.tensors import read_image
from atp.models.network import NetworkConfig, SegmentationNetwork, build_network
from atp.training.prediction import Predictor, chunks, reestimate_batchnorm
from atp.training.runtime import Runtime

RUNTIME = Runtime(torch.device("cpu"))


def network(seed: int = 0) -> SegmentationNetwork:
    torch.manual_seed(seed)
    return build_network(NetworkConfig(backbone="resnet_small", output_stride=8, aspp_dilations=(1,), num_classes=3))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 255, (2, 3, 16, 24), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_plain_prediction_is_the_softmax(images: torch.Tensor) -> None:
    one = network().eval()
    probabilities = Predictor([(one, 1.0)], RUNTIME).probabilities(images)
    assert torch.allclose(probabilities, one(images).softmax(1), atol=1e-6)


def test_flip_makes_mirrored_images_agree(images: torch.Tensor) -> None:
    predictor = Predictor([(network(), 1.0)], RUNTIME, flip=True)
    straight, mirrored = predictor.probabilities(images), predictor.probabilities(images.flip(-1))
    assert torch.allclose(straight, mirrored.flip(-1), atol=1e-5)


def test_networks_are_averaged_by_their_share(images: torch.Tensor) -> None:
    first, second = network(1), network(2)
    both = Predictor([(first, 0.75), (second, 0.25)], RUNTIME).probabilities(images)
    apart = [Predictor([(one, 1.0)], RUNTIME).probabilities(images) for one in (first, second)]
    assert torch.allclose(both, 0.75 * apart[0] + 0.25 * apart[1], atol=1e-6)


def test_zooms_are_probabilities_of_the_images_size(images: torch.Tensor) -> None:
    probabilities = Predictor([(network(), 1.0)], RUNTIME, scales=(1.0, 1.25, 0.5)).probabilities(images)
    assert probabilities.shape == (2, 3, 16, 24)
    assert torch.allclose(probabilities.sum(1), torch.ones(2, 16, 24), atol=1e-5)


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    for index, size in enumerate([(8, 8)] * 3 + [(9, 8)] * 2 + [(8, 8)]):
        Image.new("RGB", size, (40 * index, 100, 200 - 30 * index)).save(tmp_path / f"{index}.png")
    return list_samples(tmp_path)


def test_chunks_hold_consecutive_images_of_one_size(samples: list[Sample]) -> None:
    assert [[sample.name for sample in part] for part in chunks(samples, None, 2)] == [
        ["0", "1"],
        ["2"],
        ["3", "4"],
        ["5"],
    ]


def test_a_common_size_needs_no_look_at_the_files() -> None:
    absent = [Sample(str(index), Path("absent"), None) for index in range(5)]
    assert [len(part) for part in chunks(absent, (4, 4), 2)] == [2, 2, 1]


def test_statistics_are_the_mean_over_the_images_and_nothing_else_changes(samples: list[Sample]) -> None:
    one = network()
    weights = {name: value.clone() for name, value in one.named_parameters()}
    reestimate_batchnorm(one, samples[:3], None, RUNTIME)
    inputs = torch.stack([torch.tensor([40 * i, 100, 200 - 30 * i]) for i in range(3)]).float()[..., None, None]
    with torch.no_grad():
        features = one.backbone.conv1(one.normalise(inputs.expand(-1, -1, 8, 8).to(torch.uint8)))  # type: ignore[operator]
    mean = one.backbone.bn1.running_mean  # type: ignore[union-attr]
    assert torch.allclose(mean, features.mean((0, 2, 3)), atol=1e-5)  # type: ignore[arg-type]
    assert all(torch.equal(value, weights[name]) for name, value in one.named_parameters())
    assert not one.training


class Dropping(SegmentationNetwork):
    """Dropout before BatchNorm."""

    def __init__(self) -> None:
        super().__init__(NetworkConfig(num_classes=2))
        self.drop, self.norm, self.classifier = nn.Dropout(0.5), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)

    def scores(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.norm(self.drop(images)))  # type: ignore[no-any-return]


def test_statistics_are_of_what_is_predicted_from(samples: list[Sample]) -> None:
    """Not of what dropout leaves of it."""
    one = Dropping()
    reestimate_batchnorm(one, samples[:3], None, RUNTIME)
    normal = one.normalise(torch.stack([read_image(sample.image) for sample in samples[:3]]))
    torch.testing.assert_close(one.norm.running_mean, normal.mean((0, 2, 3)))
    torch.testing.assert_close(one.norm.running_var, normal.var((0, 2, 3)))
