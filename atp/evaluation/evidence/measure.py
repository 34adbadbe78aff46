"""One pass of a model over target images, from which all indicators are computed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as photometry

from atp.data.folder import Sample
from atp.data.prepared import UNPREPARED, Prepared
from atp.evaluation.evidence.indicators import (
    class_iou,
    effective_classes,
    marginal_divergence,
    neighbourhood_density,
    pixel_agreement,
)
from atp.evaluation.metrics import ConfusionMatrix
from atp.losses.entropy import mean_entropy
from atp.models.network import SegmentationNetwork
from atp.training.prediction import Predictor, chunks, read_chunks
from atp.training.progress import Progress
from atp.training.runtime import Runtime

PIXELS = 4096
"""Number of pixels sampled from all images for the density, whose cost is quadratic."""


@dataclass(frozen=True)
class Measurement:
    """Result of one pass; its size does not depend on the number of images.

    Attributes:
        images: number of images.
        entropy: mean normalised entropy of the predictions, in [0, 1].
        density: soft neighbourhood density of sampled pixels, nats.
        marginal: mean probability of each class, (C,), float64.
        shares: share of pixels predicted as each class, (C,), float64.
        views: for each view, counts of pixels by the class in the original and in the changed image, (C, C).
        before: counts of pixels by the class predicted by another model and by this one, (C, C); None without one.
    """

    images: int
    entropy: float
    density: float
    marginal: Tensor
    shares: Tensor
    views: dict[str, Tensor]
    before: Tensor | None = None

    def to_json(self) -> dict[str, Any]:
        """Convert to numbers and lists."""
        parts = {"marginal": self.marginal, "shares": self.shares, "before": self.before}
        return {
            "images": self.images,
            "entropy": self.entropy,
            "density": self.density,
            "views": {name: counts.tolist() for name, counts in self.views.items()},
            **{name: None if value is None else value.tolist() for name, value in parts.items()},
        }

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> "Measurement":
        """Convert back from ``to_json``."""
        return cls(
            images=tree["images"],
            entropy=tree["entropy"],
            density=tree["density"],
            marginal=torch.tensor(tree["marginal"], dtype=torch.float64),
            shares=torch.tensor(tree["shares"], dtype=torch.float64),
            views={name: torch.tensor(counts) for name, counts in tree["views"].items()},
            before=None if tree["before"] is None else torch.tensor(tree["before"]),
        )


SCALES = {"smaller": 0.75, "larger": 1.25}
"""Scales of the views that have another size."""


def darker(images: Tensor) -> Tensor:
    """Reduce brightness and contrast of images, uint8, (N, 3, H, W)."""
    changed: Tensor = photometry.adjust_contrast(photometry.adjust_brightness(images, 0.7), 0.8)
    return changed


def brighter(images: Tensor) -> Tensor:
    """Increase brightness and reduce saturation of images, uint8, (N, 3, H, W)."""
    changed: Tensor = photometry.adjust_saturation(photometry.adjust_brightness(images, 1.3), 0.7)
    return changed


def changed_views(predictor: Predictor) -> dict[str, Callable[[Tensor], Tensor]]:
    """Functions that predict a changed view of images and map the probabilities back to the original geometry."""
    return {
        "flip": lambda images: predictor.probabilities(images.flip(-1)).flip(-1),
        **{name: replace(predictor, scales=(scale,)).probabilities for name, scale in SCALES.items()},
        "darker": lambda images: predictor.probabilities(darker(images)),
        "brighter": lambda images: predictor.probabilities(brighter(images)),
    }


KINDS = {"flip": ("flip",), "scale": ("smaller", "larger"), "photometric": ("darker", "brighter")}
"""The views of each kind of change."""


def measure(
    network: SegmentationNetwork,
    samples: Sequence[Sample],
    size: tuple[int, int] | None,
    runtime: Runtime,
    *,
    window: tuple[int, int] | None = None,
    before: SegmentationNetwork | None = None,
    prepared: Prepared = UNPREPARED,
    name: str = "evidence",
) -> Measurement:
    """Predict the original images and changed views of them.

    Args:
        network: left in evaluation mode.
        samples: images in any order, for instance from ``evenly_spread``.
        window: (width, height) of the windows in which images are predicted; None predicts whole images.
        before: another model whose predictions are compared with this one's.
        prepared: images that need not be decoded again.
        name: name for progress.

    Returns:
        The measurement, reproducible on the same machine.
    """
    predictor = Predictor([(network, 1.0)], runtime, window=window)
    other = Predictor([(before, 1.0)], runtime, window=window) if before is not None else None
    views = changed_views(predictor)
    agreement = {view: ConfusionMatrix(network.num_classes, runtime.device) for view in views}
    stability = ConfusionMatrix(network.num_classes, runtime.device)
    marginal = torch.zeros(network.num_classes, dtype=torch.float64)
    shares = torch.zeros(network.num_classes, dtype=torch.float64)
    entropy = 0.0
    sampled: list[Tensor] = []
    parts, read = chunks(samples, size, predictor.chunk), partial(prepared.image, size=size)
    with Progress(name, len(samples), enabled=runtime.is_main) as progress:
        for part, images in read_chunks(parts, read, runtime):
            probabilities = predictor.probabilities(images)
            classes = probabilities.argmax(1)
            for own, said in zip(probabilities, classes, strict=True):
                marginal += own.mean((1, 2)).double().cpu()
                shares += torch.bincount(said.flatten(), minlength=network.num_classes).cpu() / said.numel()
                sampled.append(_sampled(own, max(1, PIXELS // len(samples)), len(sampled)))
            entropy += float(mean_entropy(probabilities).sum())
            for view, predict in views.items():
                agreement[view].update(predict(images).argmax(1), classes)
            if other is not None:
                stability.update(classes, other.probabilities(images).argmax(1))
            progress.advance(len(part))
    return Measurement(
        images=len(samples),
        entropy=entropy / len(samples),
        density=float(neighbourhood_density(torch.cat(sampled))),
        marginal=marginal / len(samples),
        shares=shares / len(samples),
        views={view: matrix.counts.cpu() for view, matrix in agreement.items()},
        before=stability.counts.cpu() if other is not None else None,
    )


def _sampled(probabilities: Tensor, count: int, seed: int) -> Tensor:
    """Sample pixels of probabilities (C, H, W) as (count, C), at the same positions for every model."""
    flat = probabilities.flatten(1)
    places = torch.randint(flat.shape[1], (count,), generator=torch.Generator().manual_seed(seed))
    return flat[:, places.to(flat.device)].T


def indicators(measured: Measurement, source: Tensor) -> dict[str, float]:
    """Compute the indicators of a model relative to the source model.

    Args:
        source: mean probability of each class by the source model, (C,).

    Returns:
        ``augmentation_iou``: agreement under flips, scales and photometric changes, the mean of ``flip_iou``,
        ``scale_iou`` and ``photometric_iou``; ``density``; ``entropy``; ``marginal_kl``; ``classes``: effective number
        of predicted classes; ``stability`` and ``stability_iou``: agreement with the model ``before``, by pixels and by
        classes, 1 without one.
    """
    kinds = {
        f"{kind}_iou": _mean([float(class_iou(measured.views[view])) for view in views])
        for kind, views in KINDS.items()
    }
    figures = {
        "augmentation_iou": _mean(list(kinds.values())),
        **kinds,
        "density": measured.density,
        "entropy": measured.entropy,
        "marginal_kl": float(marginal_divergence(measured.marginal, source)),
        "classes": float(effective_classes(measured.shares)),
        "stability": 1.0 if measured.before is None else float(pixel_agreement(measured.before)),
        "stability_iou": 1.0 if measured.before is None else float(class_iou(measured.before)),
    }
    return {name: round(value, 6) for name, value in figures.items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
