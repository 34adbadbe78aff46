"""On two tiny domains align, teach and propagate each gain what is stated, and broken ones do not.

Four kinds of shapes in noise; in the target's images the light is warm, from the first to the last more so. A network
of 3000 parameters learns a domain in half a second.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from atp.data.folder import Sample, list_samples
from atp.data.labels import LabelSpace
from atp.data.loading import FolderLabels, Images
from atp.data.settings import Augmentation
from atp.data.tensors import read_image, read_label
from atp.losses.consistency import consistency_loss
from atp.losses.diversity import diversity_loss
from atp.losses.entropy import curriculum_entropy_loss
from atp.losses.pseudo_label import negative_pseudo_label_loss, positive_pseudo_label_loss
from atp.method.align import align
from atp.method.dump import dump
from atp.method.propagate import paired_images, propagate
from atp.method.settings import AlignSettings, DumpSettings, PropagateSettings, SourceSettings, TeachSettings
from atp.method.source import train_source
from atp.method.split import split
from atp.method.teach import taught_images, teach
from atp.models.config import NetworkConfig
from atp.models.segmentation import SegmentationNetwork
from atp.pseudo_labels.store import PseudoLabelStore
from atp.training.mixing import mix
from atp.training.prediction import reestimate_batchnorm
from atp.training.run import Run
from tests.method.known import CPU

SIDE = 24
COLOURS = np.array([[70, 130, 200], [110, 110, 110], [200, 70, 60], [70, 160, 70]], float)
SPACE = LabelSpace(("sky", "road", "car", "tree"), ((0, 0, 1), (0, 0, 2), (0, 0, 3), (0, 0, 4)))
FLIP = Augmentation(flip=True)


class Tiny(SegmentationNetwork):
    """Two convolutions with BatchNorm, and a classifier."""

    def __init__(self) -> None:
        super().__init__(NetworkConfig(num_classes=4, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)))
        layers: list[nn.Module] = []
        for channels in (3, 16):
            layers += [nn.Conv2d(channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
        self.backbone = nn.Sequential(*layers)
        self.classifier = nn.Conv2d(16, 4, 1)

    def scores(self, images: Tensor) -> Tensor:
        scores: Tensor = self.classifier(self.backbone(images))
        return scores


def draw_domain(folder: Path, count: int, seed: int, warmth: NDArray[np.float64]) -> list[Sample]:
    generator = np.random.default_rng(seed)
    for index in range(count):
        ids = np.zeros((SIDE, SIDE), np.uint8)
        ids[generator.integers(8, 14) :] = 1
        for kind, width, height, highest in ((2, 8, 8, 6), (3, 5, 10, 0)):
            x, y = generator.integers(0, SIDE - 8), generator.integers(highest, highest + 9)
            ids[y : y + height, x : x + width] = kind
        w = warmth[index]
        pixels = COLOURS[ids] + generator.normal(0, 15, (SIDE, SIDE, 3))
        pixels = pixels * (1 + 0.2 * w, 1 - 0.25 * w, 1 - 0.5 * w) + (25 * w, 0, -10 * w)
        for kind, array in (("images", np.clip(pixels, 0, 255).astype(np.uint8)), ("labels", ids)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(folder / kind / f"{index:02}.png")
    return list_samples(folder / "images", folder / "labels")


@dataclass(frozen=True)
class World:
    """The target's images, and a source model whose BatchNorm statistics are the target's.

    With its own statistics it has 46 % mIoU there, with these 91. That part of the gain any method has that sees the
    target's images; ``start`` has it already.
    """

    samples: list[Sample]
    start: Tiny
    labels: PseudoLabelStore

    @property
    def target(self) -> Images:
        return Images([Sample(s.name, s.image, None) for s in self.samples])

    def miou(self, network: SegmentationNetwork) -> float:
        images = torch.stack([read_image(sample.image, None) for sample in self.samples])
        labels = torch.stack([read_label(sample.label, 4, None) for sample in self.samples if sample.label])
        with torch.no_grad():
            found = network.eval()(images).argmax(1)
        ious = [((labels == c) & (found == c)).sum() / ((labels == c) | (found == c)).sum() for c in range(4)]
        return 100 * float(sum(ious)) / 4


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], World]:
    """By how warm the light of the last image is; the source model is one and the same."""
    folder = tmp_path_factory.mktemp("worlds")
    source = draw_domain(folder / "source", 16, 0, np.zeros(16))
    torch.manual_seed(0)
    network = Tiny()
    labelled = Images(source).augmented(FLIP, FolderLabels(4))
    settings = SourceSettings(epochs=40, batch_size=8, lr=0.1, augmentation=FLIP)
    train_source(network, labelled, settings, Run("source", 0, CPU))

    @cache
    def world(warmest: float) -> World:
        here = folder / str(warmest)
        target = draw_domain(here, 24, 1, np.linspace(0.5, warmest, 24))
        start = copy.deepcopy(network)
        reestimate_batchnorm(start, target, None, CPU)
        labels = here / "dump"
        dump([(start, 1.0)], Images(target), DumpSettings(), SPACE, CPU, pending=here / "pending", folder=labels)
        return World(target, start, PseudoLabelStore(labels))

    return world


def aligned(world: World, network: Tiny) -> SegmentationNetwork:
    settings = AlignSettings(epochs=20, batch_size=8, lr=0.1, augmentation=FLIP)
    align(network, world.target.augmented(FLIP), settings, Run("align", 0, CPU))
    return network


def taught(world: World, network: Tiny, negative: float = 1.0) -> SegmentationNetwork:
    settings = TeachSettings(
        epochs=20, batch_size=8, lr=0.1, negative=negative, class_mix=True, ema=0.9, augmentation=FLIP
    )
    images = taught_images(world.target, world.labels, settings)
    return teach(network, images, settings, 0.05, Run("teach", 0, CPU))[0]


def taught_positives(world: World, network: Tiny) -> SegmentationNetwork:
    return taught(world, network, 0.0)


def propagated(world: World, network: Tiny) -> SegmentationNetwork:
    settings = PropagateSettings(epochs=20, batch_size=6, lr=0.03, ema=0.9, confidence=0.8, augmentation=FLIP)
    easy, hard = split(world.labels.entropies, 0.5)
    pairs, weights = paired_images(world.target, easy, hard, world.labels, settings)
    return propagate(network, pairs, settings, Run("propagate", 0, CPU), weights)[0]


Part = Callable[[World, Tiny], SegmentationNetwork]

GAINS: dict[Part, tuple[float, float]] = {
    aligned: (1.2, 4.0),
    taught: (1.05, 2.0),
    taught_positives: (1.05, 1.2),
    propagated: (1.1, 2.5),
}
"""The world, and the least gain there in points of mIoU; 7.3, 3.3, 2.3 and 4.7 were measured."""


def gain(worlds: Callable[[float], World], part: Part) -> float:
    world = worlds(GAINS[part][0])
    return world.miou(part(world, copy.deepcopy(world.start))) - world.miou(world.start)


@pytest.mark.parametrize("part", GAINS)
def test_each_part_gains(worlds: Callable[[float], World], part: Part) -> None:
    assert gain(worlds, part) > GAINS[part][1]


def negated(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *args, **kwargs: -loss(*args, **kwargs)


def of_the_next_image(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda logits, labels, *rest: loss(logits, labels.roll(1, 0), *rest)


def image_by_the_inverted_mask(mask: Tensor, *images: Tensor) -> Tensor:
    return mix(~mask if images[0].ndim == 4 else mask, *images)


@pytest.mark.parametrize(
    ("part", "name", "broken"),
    [
        (aligned, "method.align.curriculum_entropy_loss", negated(curriculum_entropy_loss)),
        (aligned, "method.align.diversity_loss", negated(diversity_loss)),
        (taught, "method.teach.negative_pseudo_label_loss", of_the_next_image(negative_pseudo_label_loss)),
        (taught, "method.teach.mix", image_by_the_inverted_mask),
        (taught_positives, "method.teach.positive_pseudo_label_loss", of_the_next_image(positive_pseudo_label_loss)),
        (propagated, "method.propagate.consistency_loss", negated(consistency_loss)),
        (propagated, "method.propagate.consistency_loss", of_the_next_image(consistency_loss)),
        (propagated, "method.propagate.consistency_loss", lambda logits, *rest: 0 * logits.sum()),
        (propagated, "training.views.mix", image_by_the_inverted_mask),
    ],
)
def test_a_broken_part_does_not(
    worlds: Callable[[float], World], monkeypatch: pytest.MonkeyPatch, part: Part, name: str, broken: Any
) -> None:
    monkeypatch.setattr(f"atp.{name}", broken)
    assert gain(worlds, part) < 0.6 * GAINS[part][1]
