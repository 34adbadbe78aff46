"""Confusion matrix and what is read off it."""

import torch
from torch import Tensor

from atp.data.labels import IGNORE


class ConfusionMatrix:
    """Counts of (true class, predicted class) over all labelled pixels seen."""

    def __init__(self, num_classes: int, device: torch.device | None = None) -> None:
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def update(self, predicted: Tensor, labels: Tensor) -> None:
        """Both of one shape, integer class ids; pixels with label 255 do not count."""
        num_classes = self.counts.shape[0]
        labelled = labels != IGNORE
        index = labels[labelled].long() * num_classes + predicted[labelled].long()
        self.counts += torch.bincount(index, minlength=num_classes**2).reshape(num_classes, num_classes)

    def iou(self) -> Tensor:
        """Intersection over union per class, float64 in [0, 1]; NaN for a class neither shown nor predicted."""
        counts = self.counts.double()
        hit = counts.diagonal()
        return hit / (counts.sum(0) + counts.sum(1) - hit)

    def mean_iou(self) -> float:
        """Mean over the classes that occur in the labels; a class that is only predicted is no class to average."""
        shown = self.counts.sum(1) > 0
        return float(self.iou()[shown].mean())
