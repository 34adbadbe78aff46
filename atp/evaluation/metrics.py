"""Confusion matrix and what is read off it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from atp.data.labels import IGNORE


class ConfusionMatrix:
    """Counts over all labelled pixels seen.

    Attributes:
        counts: by (true class, predicted class), (C, C).
        unanswered: by true class, pixels for which nothing was predicted, (C,): each as wrong as any other miss.
    """

    def __init__(self, num_classes: int, device: torch.device | None = None) -> None:
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
        self.unanswered = torch.zeros(num_classes, dtype=torch.int64, device=device)

    def update(self, predicted: Tensor, labels: Tensor) -> None:
        """Both of one shape, integer class ids; pixels with label 255 do not count, a prediction of 255 is none."""
        classes = self.counts.shape[0]
        labelled = labels != IGNORE
        # One column more, for what was not answered.
        index = labels[labelled].long() * (classes + 1) + predicted[labelled].long().clamp(max=classes)
        counts = torch.bincount(index, minlength=classes * (classes + 1)).reshape(classes, classes + 1)
        self.counts += counts[:, :classes]
        self.unanswered += counts[:, classes]

    def add(self, other: "ConfusionMatrix") -> None:
        """Count what another one counted, too."""
        self.counts += other.counts
        self.unanswered += other.unanswered

    def iou(self) -> Tensor:
        """Intersection over union per class, float64 in [0, 1]; NaN for a class neither shown nor predicted."""
        counts = self.counts.double()
        hit = counts.diagonal()
        return hit / (counts.sum(0) + counts.sum(1) + self.unanswered - hit)

    def mean_iou(self, classes: Sequence[int] | None = None) -> float:
        """Mean over the classes that occur in the labels; a class that is only predicted is no class to average.

        Args:
            classes: of which the mean is taken; all if None. What is predicted where other classes are still counts.
        """
        shown = self.counts.sum(1) + self.unanswered > 0
        if classes is not None:
            chosen = torch.zeros_like(shown)
            chosen[list(classes)] = True
            shown = shown & chosen
        return float(self.iou()[shown].mean())
