"""Variants of teach: positive labels alone, and negative ones from the network as it learns."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from atp.data.folder import list_samples
from atp.data.loading import FolderLabels, ImageCache, TrainingImages
from atp.data.settings import Augmentation
from atp.losses.pseudo_label import negative_pseudo_label_loss
from atp.method.settings import TeachSettings
from atp.method.teach import teach
from atp.models.network import NetworkConfig, SegmentationNetwork, build_network
from atp.pseudo_labels.negatives import negative_labels
from atp.training.loop import History
from atp.training.run import Run
from atp.training.runtime import Runtime

CPU = Runtime(torch.device("cpu"))
AS_THEY_ARE = Augmentation(flip=False)


@pytest.fixture
def images(tmp_path: Path) -> TrainingImages:
    """Four images whose bright half is class 1, with positive labels and without negative ones."""
    for index in range(4):
        ids = torch.zeros(16, 24, dtype=torch.uint8)
        ids[:, 6 * index :] = 1
        for kind, array in (("images", (ids * 200)[..., None].expand(-1, -1, 3)), ("labels", ids)):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(array.numpy()).save(tmp_path / kind / f"{index}.png")
    samples = list_samples(tmp_path / "images", tmp_path / "labels")
    return TrainingImages(samples, AS_THEY_ARE, labels=FolderLabels(3, None, ImageCache(1)))


def fresh() -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(NetworkConfig(backbone="resnet_small", output_stride=8, aspp_dilations=(1, 2), num_classes=3))


def taught(images: TrainingImages, threshold: float = 0.05, **changes: Any) -> tuple[SegmentationNetwork, History]:
    """After a single step on all four images."""
    settings = {"epochs": 1, "batch_size": 4, "lr": 0.05, "augmentation": AS_THEY_ARE, **changes}
    return teach(fresh(), images, TeachSettings.model_validate(settings), threshold, Run("teach", 7, CPU))


def test_positives_only_need_no_negatives(images: TrainingImages) -> None:
    _, history = taught(images, negative=0.0)
    assert history.keys() == {"step", "loss", "positive"}
    assert history["loss"] == history["positive"]


def test_online_negatives_are_those_of_the_network_as_it_learns(images: TrainingImages) -> None:
    threshold = 0.33  # a network that has learned nothing is near 1/3 everywhere: some classes are below
    _, history = taught(images, threshold, negatives="online")
    network = fresh().train()
    batch = images.collate([images[index, 0] for index in range(4)])
    logits = network(batch.strong)
    negatives = negative_labels(logits.softmax(1), threshold)
    assert negatives.any()
    expected = negative_pseudo_label_loss(logits, negatives, batch.valid).item()
    assert history["negative"] == [pytest.approx(expected, rel=1e-4)]
    assert history["loss"] == [pytest.approx(history["positive"][0] + expected, rel=1e-4)]


def test_negatives_only_teach_too(images: TrainingImages) -> None:
    network, history = taught(images, 0.33, negatives="online", positive=0.0)
    assert history["loss"] == history["negative"]
    assert not torch.equal(network.head.branches[0].weight, fresh().head.branches[0].weight)
