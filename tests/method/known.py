"""A network and batches whose logits are known, and the objective that a method hands to the training loop."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from atp.data.folder import Sample, list_samples
from atp.data.labels import IGNORE, LabelSpace
from atp.data.loading import Batch
from atp.models.config import NetworkConfig
from atp.models.segmentation import SegmentationNetwork
from atp.pseudo_labels.store import PseudoLabelStore, PseudoLabelWriter
from atp.training.loop import Training
from atp.training.run import Run
from atp.training.runtime import Runtime

CPU = Runtime(torch.device("cpu"))
RUN = Run("part", 7, CPU)
CLASSES = 3
SPACE = LabelSpace(("sky", "road", "car"), ((0, 0, 200), (90, 90, 90), (200, 0, 0)))


class Mode(nn.Module):
    """In training mode the first class's score is higher, so that the mode shows in every prediction."""

    def forward(self, images: Tensor) -> Tensor:
        return images + torch.tensor([0.5, 0, 0])[:, None, None] if self.training else images


class Known(SegmentationNetwork):
    """Scores are six times the image's channels in [0, 1], of the first class 3 more in training mode.

    Attributes:
        calls: of each call the images, whether in training mode and whether with gradients.
    """

    GAIN = 6.0

    def __init__(self) -> None:
        super().__init__(NetworkConfig(num_classes=CLASSES, mean=(0, 0, 0), std=(1, 1, 1)))
        self.backbone = Mode()
        self.classifier = nn.Conv2d(CLASSES, CLASSES, 1, bias=False)
        with torch.no_grad():
            self.classifier.weight.copy_(self.GAIN * torch.eye(CLASSES)[:, :, None, None])
        self.calls: list[tuple[Tensor, bool, bool]] = []

    def scores(self, images: Tensor) -> Tensor:
        self.calls.append((images, self.training, torch.is_grad_enabled()))
        scores: Tensor = self.classifier(self.backbone(images))
        return scores


def logits(images: Tensor, *, training: bool) -> Tensor:
    """What ``Known`` answers."""
    return Known.GAIN * Mode().train(training)(images.float() / 255)


def drawn(count: int, seed: int, height: int = 2, width: int = 4) -> Tensor:
    """Images of random pixels, uint8, (N, 3, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def batch(seed: int, count: int = 2, **changes: Any) -> Batch:
    """Every part of it drawn, so that none can be taken for another: views differ, some pixels are padding."""
    generator = torch.Generator().manual_seed(seed)
    weak, strong = drawn(count, seed + 100), drawn(count, seed + 200)
    shape = (count, *weak.shape[2:])
    labels = torch.randint(CLASSES, shape, generator=generator)
    labels[torch.rand(shape, generator=generator) < 0.2] = IGNORE
    valid = torch.ones(shape, dtype=torch.bool)
    valid[-1, :, -1] = False
    labels = labels.masked_fill(~valid, IGNORE)
    negatives = torch.rand((count, CLASSES, *shape[1:]), generator=generator) < 0.4
    none = weak.new_empty((count, 0, *shape[1:]))
    parts = {
        "weak": weak,
        "strong": strong,
        "labels": labels,
        "valid": valid,
        "negatives": negatives,
        "classes": none,
        "probabilities": none.float(),
        "second": drawn(count, seed + 300),
    }
    return Batch(**parts | changes)


@dataclass(frozen=True)
class Captured:
    """What a method gave to the training loop, and what it returned when that had nothing to do.

    Attributes:
        meanwhile: losses of the batch that was there while the loop ran.
    """

    training: Training[Any]
    objective: Callable[[nn.Module, Any], dict[str, Tensor]]
    returned: Any
    meanwhile: dict[str, Tensor]

    def losses(self, given: Any) -> dict[str, Tensor]:
        """Of a batch, with the network in training mode, as the loop has it."""
        return self.objective(self.training.network.train(), given)


HISTORY = {"step": [1.0], "loss": [2.0]}


def captured(
    monkeypatch: pytest.MonkeyPatch, method: Callable[..., Any], *args: Any, given: Any = None, **kwargs: Any
) -> Captured:
    """Call a method with a training loop that keeps the objective and trains nothing."""
    seen: list[Any] = []

    def run(self: Training[Any], objective: Any) -> dict[str, list[float]]:
        seen.extend((self, objective, {} if given is None else objective(self.network.train(), given)))
        return HISTORY

    monkeypatch.setattr(Training, "run", run)
    returned = method(*args, **kwargs)
    training, objective, losses = seen
    return Captured(training, objective, returned, losses)


def same(ours: dict[str, Tensor], expected: dict[str, Tensor | float]) -> None:
    """The same names and values."""
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            ours[name].float(), torch.as_tensor(value).float(), msg=lambda m, n=name: f"{n}: {m}"
        )


def stored(folder: Path, images: dict[str, Tensor], keep_ratio: float = 1.0) -> PseudoLabelStore:
    """Pseudo labels of some predictions (C, H, W)."""
    writer = PseudoLabelWriter(folder / "pending", CLASSES, negative_threshold=0.2, keep_ratio=keep_ratio)
    for name, probabilities in images.items():
        writer.add(name, probabilities)
    writer.finish(folder / "labels", SPACE, images, {})
    return PseudoLabelStore(folder / "labels")


def written(folder: Path, images: dict[str, Tensor]) -> list[Sample]:
    """Images (3, H, W) as files."""
    for name, pixels in images.items():
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)
    return list_samples(folder)
