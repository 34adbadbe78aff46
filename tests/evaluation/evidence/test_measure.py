"""One pass over images: which ones, what is read off it, and that nothing else decides it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from atp.data.folder import Sample, list_samples
from atp.evaluation.evidence.measure import Measurement, brighter, darker, indicators, measure, spread
from atp.evaluation.evidence.record import INDICATORS
from atp.models.network import NetworkConfig, SegmentationNetwork, build_network
from atp.training.runtime import Runtime

RUNTIME = Runtime(torch.device("cpu"))
SIZE = (24, 16)


def network(seed: int = 0) -> SegmentationNetwork:
    torch.manual_seed(seed)
    return build_network(NetworkConfig(backbone="resnet_small", output_stride=8, aspp_dilations=(1,), num_classes=3))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for index in range(5):
        pixels = generator.integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return list_samples(folder)


@pytest.fixture(scope="module")
def measured(samples: list[Sample]) -> Measurement:
    return measure(network(), samples, SIZE, RUNTIME, before=network(1))


def test_images_are_evenly_spread() -> None:
    many = [Sample(str(index), Path("absent"), None) for index in range(100)]
    assert [int(sample.name) for sample in spread(many, 4)] == [12, 37, 62, 87]
    assert spread(many, 0) == spread(many, 100) == spread(many, 1000) == many


def test_the_same_again_whatever_was_drawn_before(samples: list[Sample], measured: Measurement) -> None:
    torch.manual_seed(123)
    again = measure(network(), samples, SIZE, RUNTIME, before=network(1))
    assert again.to_json() == measured.to_json()


def test_json_and_back(measured: Measurement) -> None:
    back = Measurement.from_json(measured.to_json())
    assert back.to_json() == measured.to_json()
    assert indicators(back, back.marginal) == indicators(measured, measured.marginal)


def test_the_indicators_are_those_that_can_be_asked_for(measured: Measurement) -> None:
    assert set(indicators(measured, measured.marginal)) == set(INDICATORS)


def test_every_pixel_is_counted_in_every_view(samples: list[Sample], measured: Measurement) -> None:
    pixels = len(samples) * SIZE[0] * SIZE[1]
    assert set(measured.views) == {"flip", "smaller", "larger", "darker", "brighter"}
    assert measured.before is not None
    assert all(int(counts.sum()) == pixels for counts in (*measured.views.values(), measured.before))
    assert float(measured.marginal.sum()) == pytest.approx(1, abs=1e-5)
    assert float(measured.shares.sum()) == pytest.approx(1, abs=1e-6)
    # Pixels by class on the unchanged image are the shares, whatever the view.
    for counts in measured.views.values():
        assert torch.allclose(counts.double().sum(1) / pixels, measured.shares)


def test_a_model_agrees_with_itself_before(samples: list[Sample]) -> None:
    figures = indicators(same := measure(network(), samples, SIZE, RUNTIME, before=network()), same.marginal)
    assert figures["stability"] == 1
    assert figures["marginal_kl"] == 0


def test_one_class_everywhere_is_seen(samples: list[Sample], measured: Measurement) -> None:
    """Agreement of pixels is perfect, agreement of classes is not."""
    constant = network()
    with torch.no_grad():
        for parameter in constant.parameters():
            parameter.zero_()
        list(constant.classifier.parameters())[-1].copy_(torch.tensor([0.0, 9.0, 0.0]))  # type: ignore[operator]
    figures = indicators(measure(constant, samples, SIZE, RUNTIME), measured.marginal)
    assert figures["classes"] == pytest.approx(1)
    assert figures["scale_iou"] == figures["flip_iou"] == pytest.approx(1 / 3, abs=1e-6)
    assert figures["entropy"] < 0.01
    assert figures["stability"] == 1


def test_figures_do_not_hang_on_a_comparison(measured: Measurement) -> None:
    alone = replace(measured, before=None)
    first, second = indicators(measured, measured.marginal), indicators(alone, measured.marginal)
    assert {k: v for k, v in first.items() if "stab" not in k} == {k: v for k, v in second.items() if "stab" not in k}


def test_photometric_views_move_the_light() -> None:
    image = torch.full((1, 3, 4, 4), 100, dtype=torch.uint8)
    assert int(darker(image).max()) < 100 < int(brighter(image).min())
