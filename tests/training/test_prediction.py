"""Averaged predictions, chunks that never change, BatchNorm's statistics, sliding windows."""

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from atp.data.folder import Sample, list_samples
from atp.data.tensors import image_tensor, read_image
from atp.errors import InputError
from atp.models.network import NetworkConfig, SegmentationNetwork, build_network
from atp.training.prediction import Predictor, chunks, predictor_of, reestimate_batchnorm, starts
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


class Seeing(Dropping):
    """Keeps the images that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(images)
        return super().forward(images)


@pytest.mark.parametrize(("window", "count"), [((5, 4), 18), ((8, 8), 3), ((99, 99), 3)])
def test_statistics_are_of_the_windows_in_which_images_are_predicted(
    samples: list[Sample], window: tuple[int, int], count: int
) -> None:
    """Since whole images may be too large for the network."""
    one = Seeing()
    reestimate_batchnorm(one, samples[:3], None, RUNTIME, window)
    height, width = min(window[1], 8), min(window[0], 8)
    assert all(batch.shape[-2:] == (height, width) for batch in one.seen)
    assert sum(map(len, one.seen)) == count
    assert max(map(len, one.seen)) <= 8
    mean = torch.stack([one.normalise(batch).mean((0, 2, 3)) for batch in one.seen]).mean(0)
    torch.testing.assert_close(one.norm.running_mean, mean)


class Local(SegmentationNetwork):
    """Scores of a pixel are its colours, and of every pixel the window's mean: what a window shows decides them."""

    def __init__(self) -> None:
        super().__init__(NetworkConfig(num_classes=3))
        self.classifier = nn.Conv2d(3, 3, 1)
        self.seen: list[tuple[int, ...]] = []

    def scores(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(tuple(images.shape))
        return images + images.mean((2, 3), keepdim=True)


@pytest.mark.parametrize(("length", "window"), [(16, 16), (17, 16), (24, 16), (100, 16), (7, 1), (5, 2), (9, 20)])
def test_windows_cover_every_pixel_and_overlap(length: int, window: int) -> None:
    firsts = starts(length, window)
    assert (firsts[0], firsts[-1] + min(window, length)) == (0, length)
    gaps = [after - before for before, after in pairwise(firsts)]
    assert all(0 < gap <= max(1, 2 * window // 3) for gap in gaps)


def test_a_window_as_large_as_the_image_is_the_plain_prediction(images: torch.Tensor) -> None:
    plain = Predictor([(network(), 1.0)], RUNTIME)
    assert torch.equal(replace(plain, window=(24, 16)).probabilities(images), plain.probabilities(images))


def test_windows_are_blended_by_their_distance_from_the_edge() -> None:
    """One row of 6 pixels in two windows of 4, by hand: their weights are 1/2, 1, 1, 1/2."""
    one = Local()
    row = torch.randint(0, 255, (1, 3, 1, 6), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    assert starts(6, 4) == [0, 2]
    left, right = (one(row[..., first : first + 4]).softmax(1)[0, :, 0] for first in (0, 2))
    expected = torch.stack(
        [
            left[:, 0],
            left[:, 1],
            (1.0 * left[:, 2] + 0.5 * right[:, 0]) / 1.5,
            (0.5 * left[:, 3] + 1.0 * right[:, 1]) / 1.5,
            right[:, 2],
            right[:, 3],
        ],
        1,
    )
    found = Predictor([(one, 1.0)], RUNTIME, window=(4, 1)).probabilities(row)[0, :, 0]
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, one(row).softmax(1)[0, :, 0], atol=1e-3), "else windows would not matter"


def test_windows_go_through_the_network_in_batches_and_give_probabilities(images: torch.Tensor) -> None:
    one = Local()
    probabilities = Predictor([(one, 1.0)], RUNTIME, window=(6, 4)).probabilities(images)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2, 16, 24))
    # 7 by 6 columns and rows of windows: six batches an image.
    assert one.seen == 2 * [*5 * [(8, 3, 4, 6)], (2, 3, 4, 6)]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_windows_do_not_depend_on_the_other_images(images: torch.Tensor, dtype: torch.dtype | None) -> None:
    predictor = Predictor([(network(), 1.0)], Runtime(torch.device("cpu"), dtype), window=(10, 8))
    both = predictor.probabilities(images)
    assert torch.equal(both, torch.cat([predictor.probabilities(image[None]) for image in images]))
    assert torch.equal(both, predictor.probabilities(images)), "and are the same again"


def test_windows_of_zooms_and_mirrored_images(images: torch.Tensor) -> None:
    """At half the scale the image is smaller than the window, which then shows all of it."""
    one = Local()
    averaged = Predictor([(one, 1.0)], RUNTIME, flip=True, scales=(0.5, 1.0, 1.5), window=(16, 10))
    probabilities = averaged.probabilities(images)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2, 16, 24))
    assert {shape[2:] for shape in one.seen} == {(8, 12), (10, 16)}
    torch.testing.assert_close(probabilities.flip(-1), averaged.probabilities(images.flip(-1)))


def test_images_that_need_windows_are_predicted_one_at_a_time(samples: list[Sample]) -> None:
    """Eight of them with all their classes may not fit into memory."""
    plain = Predictor([(network(), 1.0)], RUNTIME)
    assert [len(part) for part in chunks(samples, (8, 8), plain.chunk)] == [6]
    assert [len(part) for part in chunks(samples, (8, 8), replace(plain, window=(4, 4)).chunk)] == [1] * 6


def test_images_smaller_than_the_windows_are_refused(images: torch.Tensor) -> None:
    with pytest.raises(InputError, match="an image of 24x16: smaller than the windows of 25x16"):
        Predictor([(network(), 1.0)], RUNTIME, window=(25, 16)).probabilities(images)


def test_an_image_is_predicted_at_a_size_and_told_at_its_own(images: torch.Tensor) -> None:
    predictor = Predictor([(network(), 1.0)], RUNTIME)
    image = Image.fromarray(images[0].permute(1, 2, 0).numpy())
    assert torch.equal(predictor.image(image, None), predictor.probabilities(images[:1])[0])
    found = predictor.image(image, (40, 32))
    larger = image_tensor(image.resize((40, 32), Image.Resampling.BICUBIC))[None]
    assert torch.equal(found, F.interpolate(predictor.probabilities(larger), (16, 24), mode="bilinear")[0])


def test_a_finished_model_computes_in_its_own_precision_where_the_device_can(monkeypatch: pytest.MonkeyPatch) -> None:
    one = network()
    for native, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr("atp.training.runtime.computes_bf16", lambda device, native=native: native)
        one.precision = "bf16"
        assert predictor_of(one, torch.device("cpu"), None).runtime.precision == expected
    one.precision = "fp16"
    assert predictor_of(one, torch.device("cpu"), None).runtime.precision == "fp32"


def test_a_registered_model_needs_no_settings() -> None:
    """It imports this module on machines without the packages that read YAML."""
    code = "import sys, atp.training.prediction; assert not {'ruamel', 'atp.settings'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)
