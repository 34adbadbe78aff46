"""Confusion matrix and IoU."""

from collections.abc import Sequence

import torch
from torch import Tensor

from atp.data.labels import IGNORE


class ConfusionMatrix:
    """Confusion matrix over all labelled pixels.

    Attributes:
        counts: pixels by (true class, predicted class), (C, C).
        unanswered: pixels without a prediction by true class, (C,); they count as errors.
    """

    def __init__(self, num_classes: int, device: torch.device | None = None) -> None:
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
        self.unanswered = torch.zeros(num_classes, dtype=torch.int64, device=device)

    def update(self, predicted: Tensor, labels: Tensor) -> None:
        """Add predicted and true class ids of one shape; label 255 is ignored, prediction 255 means none."""
        classes = self.counts.shape[0]
        labelled = labels != IGNORE
        # One more column, for missing predictions.
        index = labels[labelled].long() * (classes + 1) + predicted[labelled].long().clamp(max=classes)
        counts = torch.bincount(index, minlength=classes * (classes + 1)).reshape(classes, classes + 1)
        self.counts += counts[:, :classes]
        self.unanswered += counts[:, classes]

    def add(self, other: "ConfusionMatrix") -> None:
        """Add the counts of another confusion matrix."""
        self.counts += other.counts
        self.unanswered += other.unanswered

    def iou(self) -> Tensor:
        """Intersection over union per class, float64 in [0, 1]; NaN for a class neither labelled nor predicted."""
        counts = self.counts.double()
        hit = counts.diagonal()
        return hit / (counts.sum(0) + counts.sum(1) + self.unanswered - hit)

    def mean_iou(self, classes: Sequence[int] | None = None) -> float:
        """Mean over the classes that occur in the labels.

        Args:
            classes: subset to average; all if None. Predictions of these on pixels of other classes count as errors.
        """
        shown = self.counts.sum(1) + self.unanswered > 0
        if classes is not None:
            chosen = torch.zeros_like(shown)
            chosen[list(classes)] = True
            shown = shown & chosen
        return float(self.iou()[shown].mean())
