"""A segmentation network: a backbone (the paper's f), a classifier (g), and what adaptation asks of them."""

from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from atp.models.backbones import build_backbone
from atp.models.config import NetworkConfig
from atp.models.deeplab import DeepLabV2Head

__all__ = ["NetworkConfig", "SegmentationNetwork", "build_network", "parameter_groups"]


class SegmentationNetwork(nn.Module):
    """Images to class scores for every pixel.

    Args:
        backbone: normalised images (N, 3, H, W) to features (N, D, h, w).
        classifier: features to scores (N, C, h, w).
        num_classes: C.
        mean, std: of R, G, B on the scale 0 to 1.
        channels: order in which the backbone wants them.
    """

    def __init__(
        self,
        backbone: nn.Module,
        classifier: nn.Module,
        num_classes: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        channels: Literal["rgb", "bgr"] = "rgb",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier
        self.num_classes = num_classes
        self.channels = channels
        self._classifier_frozen = False
        self._batchnorm_held = False
        self.mean: Tensor
        self.std: Tensor
        # Part of the configuration, not of the weights: a user's checkpoint has none.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images to logits.

        Args:
            images: RGB, (N, 3, H, W), uint8, or floating point in [0, 1].

        Returns:
            Logits (N, C, H, W), in the floating type that autocast picks; interpolated from (N, C, h, w).
        """
        scores = self.classifier(self.backbone(self.normalise(images)))
        return F.interpolate(scores, size=images.shape[-2:], mode="bilinear", align_corners=False)

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
        self.classifier.requires_grad_(False)
        self.train(self.training)

    def hold_batchnorm(self) -> None:
        """Normalise by the running statistics and leave them, also under ``train()``, until ``unfreeze()``."""
        self._batchnorm_held = True
        self.train(self.training)

    def unfreeze(self) -> None:
        """Undo ``freeze_classifier()`` and ``hold_batchnorm()``."""
        if self._classifier_frozen:
            self.classifier.requires_grad_(True)
        self._classifier_frozen = self._batchnorm_held = False
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode; what is frozen stays in evaluation mode.

        Without this the next ``train()`` would wake a frozen classifier: ``requires_grad`` stops neither BatchNorm's
        running statistics nor dropout.
        """
        super().train(mode)
        if self._classifier_frozen:
            self.classifier.eval()
        if self._batchnorm_held:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self


def build_network(config: NetworkConfig) -> SegmentationNetwork:
    """The network of a configuration; random weights come from torch's global generator.

    Raises:
        InputError: the backbone's weights cannot be had.
    """
    if config.num_classes < 1:
        raise ValueError("num_classes is not set; take it from the data's label space")
    backbone = build_backbone(config.backbone, config.output_stride, config.weights, config.resnet_style)
    classifier = DeepLabV2Head(backbone.out_channels, config.num_classes, config.aspp_dilations)
    return SegmentationNetwork(backbone, classifier, config.num_classes, config.mean, config.std, config.channels)


def parameter_groups(network: SegmentationNetwork, lr: float, classifier_factor: float) -> list[dict[str, Any]]:
    """What an optimiser shall change, the classifier ``classifier_factor`` times as fast; nothing that is frozen.

    Frozen parameters are left out rather than left without gradient: an optimiser's weight decay may still move them.
    """
    groups = [
        {"params": [p for p in module.parameters() if p.requires_grad], "lr": rate}
        for module, rate in ((network.backbone, lr), (network.classifier, lr * classifier_factor))
    ]
    return [group for group in groups if group["params"]]
