"""MIC: what the student learns where."""

from typing import Any

import pytest
import torch

from atp.baselines.mic import Settings, align
from atp.data.loading import TrainingImages
from atp.models.network import NetworkConfig, SegmentationNetwork, build_network
from atp.training.ema import AveragedNetwork
from atp.training.loop import History
from atp.training.run import Run
from atp.training.runtime import Runtime


def trained(noise: TrainingImages, **settings: Any) -> History:
    torch.manual_seed(0)
    network = build_network(NetworkConfig(backbone="resnet_small", output_stride=8, num_classes=3))
    own = Settings(epochs=2, batch_size=8, lr=1e-9, **settings)
    return align(network, noise, own, Run("align", 7, Runtime(torch.device("cpu"))))


def test_the_loss_is_weighted_by_confident_pixels(noise: TrainingImages) -> None:
    full, none = trained(noise, confidence=0.0), trained(noise, confidence=1.0)
    assert (full["quality"], none["quality"], none["masked"]) == ([1.0, 1.0], [0.0, 0.0], [0.0, 0.0])
    assert full["masked"][0] > 0.1
    assert full["whole"][0] > 0.1
    assert none["loss"] == [0.0, 0.0]


def test_the_losses_of_whole_and_masked_images_are_added(noise: TrainingImages) -> None:
    history = trained(noise, confidence=0.0, whole=3.0)
    assert history["loss"][0] == pytest.approx(3 * history["whole"][0] + history["masked"][0])


def test_the_teacher_sees_the_whole_image(noise: TrainingImages) -> None:
    seen = trained(noise, confidence=0.0, masked=0.0, batchnorm="eval")
    blind = trained(noise, confidence=0.0, masked=1.0, batchnorm="eval")
    # With nothing hidden, the student's labels are its own most probable classes.
    assert seen["masked"][0] == pytest.approx(seen["whole"][0])
    assert blind["whole"][0] == pytest.approx(seen["whole"][0])
    assert blind["masked"][0] > seen["masked"][0] + 0.01


def test_the_teacher_follows_the_student(noise: TrainingImages, monkeypatch: pytest.MonkeyPatch) -> None:
    updated: list[SegmentationNetwork] = []
    monkeypatch.setattr(AveragedNetwork, "update", lambda self, network: updated.append(network))
    trained(noise)
    assert len(updated) == 2
