"""MIC's masks, and what it learns where."""

from typing import Any

import pytest
import torch

from atp.baselines.mic import Settings, align, hidden_patches, masked_images
from atp.data.loading import TrainingImages
from atp.models.network import NetworkConfig, SegmentationNetwork, build_network
from atp.training.ema import AveragedNetwork
from atp.training.loop import History
from atp.training.run import Run
from atp.training.runtime import Runtime

IMAGES = torch.zeros(8, 3, 64, 128, dtype=torch.uint8)


def test_patches_of_a_sixteenth_of_the_height_are_hidden() -> None:
    torch.manual_seed(0)
    hidden = hidden_patches(IMAGES, 0.7, 1 / 16)
    assert hidden.shape == (8, 1, 64, 128)
    grid = hidden.unflatten(2, (16, 4)).unflatten(4, (32, 4))
    whole = grid[:, :, :, :1, :, :1].expand_as(grid)
    assert torch.equal(grid, whole), "patches of 4 x 4 pixels"
    assert not torch.equal(grid[:, :, ::2], grid[:, :, 1::2])
    assert not torch.equal(grid[:, :, :, :, ::2], grid[:, :, :, :, 1::2])
    assert hidden.float().mean().item() == pytest.approx(0.7, abs=0.03)
    assert not torch.equal(hidden[0], hidden[1])
    assert not hidden_patches(IMAGES, 0.0, 1 / 16).any()
    assert hidden_patches(IMAGES, 1.0, 1 / 16).all()
    assert hidden_patches(IMAGES[..., :5, :9], 0.5, 1 / 16).shape == (8, 1, 5, 9)
    assert hidden_patches(IMAGES, 0.5, 4.0).flatten(1).float().var(1).eq(0).all(), "no patch is above the image"


def test_hidden_patches_are_zero_for_the_network() -> None:
    network = build_network(NetworkConfig(backbone="resnet_small", output_stride=8, num_classes=2))
    images = torch.full((1, 3, 2, 2), 51, dtype=torch.uint8)
    hidden = torch.tensor([[True, False], [False, False]])[None, None]
    normal = network.normalise(masked_images(images, hidden, network.mean))
    assert (normal[..., 0, 0] == 0).all()
    assert torch.equal(normal[..., 1, 1], network.normalise(images)[..., 1, 1])


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
