"""A segmentation network: a backbone (the paper's f) and a classifier (g), or a network of the user's own."""

from typing import Any

from torch import Tensor, nn

from atp.models.backbones import build_backbone
from atp.models.config import NetworkConfig
from atp.models.deeplab import DeepLabV2Head
from atp.models.own import OwnNetwork, make_own
from atp.models.segmentation import SegmentationNetwork

__all__ = ["DeepLabV2", "NetworkConfig", "SegmentationNetwork", "build_network", "parameter_groups"]


class DeepLabV2(SegmentationNetwork):
    """A backbone, the paper's f, and DeepLabV2's classifier, g.

    Args:
        backbone: normalised images (N, 3, H, W) to features (N, D, h, w).
        classifier: features to scores (N, C', h, w).
    """

    def __init__(self, backbone: nn.Module, classifier: nn.Module, config: NetworkConfig) -> None:
        super().__init__(config)
        self.backbone = backbone
        self.classifier = classifier

    def scores(self, images: Tensor) -> Tensor:
        scores: Tensor = self.classifier(self.backbone(images))
        return scores


def build_network(config: NetworkConfig) -> SegmentationNetwork:
    """The network of a configuration; random weights come from torch's global generator.

    Raises:
        InputError: the weights cannot be had, or a network of the user's own cannot be made.
    """
    if config.num_classes < 1:
        raise ValueError("num_classes is not set; take it from the data's label space")
    if config.factory is not None:
        return OwnNetwork(make_own(config), config)
    backbone = build_backbone(config.backbone, config.output_stride, config.weights, config.resnet_style)
    classifier = DeepLabV2Head(backbone.out_channels, config.num_scores, config.aspp_dilations)
    return DeepLabV2(backbone, classifier, config)


def parameter_groups(network: SegmentationNetwork, lr: float, classifier_factor: float) -> list[dict[str, Any]]:
    """What an optimiser shall change, the classifier ``classifier_factor`` times as fast; nothing that is frozen.

    Frozen parameters are left out rather than left without gradient: an optimiser's weight decay may still move them.
    """
    head = {id(p) for p in network.head.parameters()}
    learning = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learning if id(p) not in head], "lr": lr},
        {"params": [p for p in learning if id(p) in head], "lr": lr * classifier_factor},
    ]
    return [group for group in groups if group["params"]]
