"""What adaptation asks of a segmentation network, whatever it is made of."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atp.data.labels import LabelSpace
from atp.models.config import NetworkConfig

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm


class SegmentationNetwork(nn.Module, ABC):
    """Images to class scores for every pixel; what it is made of is its subclasses' business.

    Args:
        config: number of classes, normalisation, channel order, class map.

    Attributes:
        num_classes: C, of the target.
        num_scores: C', that the network itself tells apart; C unless its classes are mapped.
        label_space: names and colours of the C classes; numbers until whoever makes the network knows better.
        head_name: dotted name of the classifier, as the network's author has it.
        uses_all: whether every parameter has a part in the scores.
    """

    head_name = "classifier"
    uses_all = True

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.num_classes = config.num_classes
        self.num_scores = config.num_scores
        self.label_space = LabelSpace.numbered(config.num_classes)
        self.channels = config.channels
        # The source model's classes that become each of the target's.
        self._groups = None if config.class_map is None else grouped(config.class_map, config.num_classes)
        self._classifier_frozen = False
        self._batchnorm_held = False
        self.mean: Tensor
        self.std: Tensor
        # Part of the configuration, not of the weights: a user's checkpoint has none.
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)

    @property
    def given(self) -> nn.Module:
        """The network as its author has it: its names are those of checkpoints."""
        return self

    @property
    def head(self) -> nn.Module:
        """The classifier, the paper's g: what align freezes."""
        return self.given.get_submodule(self.head_name)

    @abstractmethod
    def scores(self, images: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) to scores (N, C', h, w) of the classes that the network itself knows."""

    def forward(self, images: Tensor) -> Tensor:
        """Images to logits.

        Args:
            images: RGB, (N, 3, H, W), uint8, or floating point in [0, 1].

        Returns:
            Logits (N, C, H, W), interpolated from (N, C', h, w), in the floating type that autocast picks; in float32
            where classes are mapped.
        """
        scores = self.scores(self.normalise(images))
        logits = F.interpolate(scores, size=images.shape[-2:], mode="bilinear", align_corners=False)
        if self._groups is not None:
            # softmax of these is the sum of the probabilities, of the classes that the target has; of scores that were
            # interpolated later it would not be. In float32: autocast's types would round a small class away.
            logits = torch.stack([logits[:, group].float().logsumexp(1) for group in self._groups], 1)
        return logits

    def normalise(self, images: Tensor) -> Tensor:
        """Images as for ``forward`` to what the backbone takes, (N, 3, H, W)."""
        scaled = images.to(self.mean.dtype)
        if images.dtype == torch.uint8:
            scaled = scaled / 255
        normal = (scaled - self.mean) / self.std
        return normal.flip(1) if self.channels == "bgr" else normal

    def freeze_classifier(self) -> None:
        """Keep the classifier as it is, parameters and buffers, also under ``train()``, until ``unfreeze()``."""
        self._classifier_frozen = True
        self.head.requires_grad_(False)
        self.train(self.training)

    def hold_batchnorm(self) -> None:
        """Normalise by the running statistics and leave them, also under ``train()``, until ``unfreeze()``."""
        self._batchnorm_held = True
        self.train(self.training)

    def unfreeze(self) -> None:
        """Undo ``freeze_classifier()`` and ``hold_batchnorm()``."""
        if self._classifier_frozen:
            self.head.requires_grad_(True)
        self._classifier_frozen = self._batchnorm_held = False
        self.train(self.training)

    def release(self) -> None:
        """Undo whatever a method froze, so that the next one finds the network as if it were read from a file."""
        self.unfreeze()
        self.requires_grad_(True)

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode; what is frozen stays in evaluation mode.

        Without this the next ``train()`` would wake a frozen classifier: ``requires_grad`` stops neither BatchNorm's
        running statistics nor dropout.
        """
        super().train(mode)
        if self._classifier_frozen:
            self.head.eval()
        if self._batchnorm_held:
            for module in self.modules():
                if isinstance(module, BatchNorm):
                    module.eval()
        return self


def grouped(class_map: Sequence[int], num_classes: int) -> list[list[int]]:
    """For each of the target's classes the ids of the source model's that become it."""
    return [[own for own, target in enumerate(class_map) if target == index] for index in range(num_classes)]
