"""The interface of segmentation networks for adaptation."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atp.data.labels import LabelSpace
from atp.data.reading import Reading
from atp.models.config import NetworkConfig

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm


class SegmentationNetwork(nn.Module, ABC):
    """Base class of networks that map images to logits of every pixel.

    Args:
        config: number of classes, normalisation, channel order, class map.

    Attributes:
        num_classes: C, the target's number of classes.
        num_scores: C', the network's own number of classes; C unless its classes are mapped.
        label_space: names and colours of the C classes; numbers until it is set.
        reading: size at which it was trained or adapted, and how it predicts; each image's own size until it is set.
        precision: floating-point precision in which it was trained or adapted; fp32 until it is set.
        head_name: dotted name of the classifier within ``given``.
        uses_all: whether the logits depend on every parameter.
    """

    head_name = "classifier"
    uses_all = True

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.num_classes = config.num_classes
        self.num_scores = config.num_scores
        self.label_space = LabelSpace.numbered(config.num_classes)
        self.reading = Reading()
        self.precision = "fp32"
        self.channels = config.channels
        # The source model's classes that map to each of the target's.
        self._groups = None if config.class_map is None else grouped(config.class_map, config.num_classes)
        self._classifier_frozen = False
        self._batchnorm_held = False
        self.mean: Tensor
        self.std: Tensor
        # Not persistent: they are part of the configuration, and a user's checkpoint lacks them.
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)

    @property
    def given(self) -> nn.Module:
        """The network without this wrapper; checkpoints use its names."""
        return self

    @property
    def head(self) -> nn.Module:
        """The classifier, the paper's g, which align freezes."""
        return self.given.get_submodule(self.head_name)

    @abstractmethod
    def scores(self, images: Tensor) -> Tensor:
        """Map normalised images (N, 3, H, W) to logits (N, C', h, w) of the network's own classes."""

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits at the images' size.

        Args:
            images: RGB, (N, 3, H, W), uint8, or floating point in [0, 1].

        Returns:
            Logits (N, C, H, W), interpolated from (N, C', h, w), in the dtype chosen by autocast; in float32 if classes
            are mapped.
        """
        scores = self.scores(self.normalise(images))
        logits = F.interpolate(scores, size=images.shape[-2:], mode="bilinear", align_corners=False)
        if self._groups is not None:
            # Their softmax is the summed probability of each group, normalised over the target's classes; this would
            # not hold if interpolation came after. In float32, since lower precision would round small classes away.
            logits = torch.stack([logits[:, group].float().logsumexp(1) for group in self._groups], 1)
        return logits

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise images, given as in ``forward``, for the backbone, (N, 3, H, W)."""
        scaled = images.to(self.mean.dtype)
        if images.dtype == torch.uint8:
            scaled = scaled / 255
        normal = (scaled - self.mean) / self.std
        return normal.flip(1) if self.channels == "bgr" else normal

    def freeze_classifier(self) -> None:
        """Freeze the classifier's parameters and buffers, even in training mode, until ``unfreeze()``."""
        self._classifier_frozen = True
        self.head.requires_grad_(False)
        self.train(self.training)

    def hold_batchnorm(self) -> None:
        """Keep BatchNorm in evaluation mode, even in training mode, until ``unfreeze()``."""
        self._batchnorm_held = True
        self.train(self.training)

    def unfreeze(self) -> None:
        """Undo ``freeze_classifier()`` and ``hold_batchnorm()``."""
        if self._classifier_frozen:
            self.head.requires_grad_(True)
        self._classifier_frozen = self._batchnorm_held = False
        self.train(self.training)

    def release(self) -> None:
        """Undo everything that a method froze, as if the network had just been loaded from a file."""
        self.unfreeze()
        self.requires_grad_(True)

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; frozen parts stay in evaluation mode.

        Otherwise ``train()`` would affect a frozen classifier, since ``requires_grad`` stops neither BatchNorm's
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
    """For each target class, the ids of the source model's classes that map to it."""
    return [[own for own, target in enumerate(class_map) if target == index] for index in range(num_classes)]
