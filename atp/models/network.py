"""Segmentation networks: a backbone (the paper's f) with a classifier (g), or the user's own network."""

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
        backbone: maps normalised images (N, 3, H, W) to features (N, D, h, w).
        classifier: maps features to logits (N, C', h, w).
    """

    def __init__(self, backbone: nn.Module, classifier: nn.Module, config: NetworkConfig) -> None:
        super().__init__(config)
        self.backbone = backbone
        self.classifier = classifier

    def scores(self, images: Tensor) -> Tensor:
        scores: Tensor = self.classifier(self.backbone(images))
        return scores


def build_network(config: NetworkConfig) -> SegmentationNetwork:
    """Build the network of a configuration; random weights come from PyTorch's global generator.

    Raises:
        InputError: if the weights cannot be loaded, or the user's own network cannot be built.
    """
    if config.num_classes < 1:
        raise ValueError("num_classes is not set; take it from the data's label space")
    if config.factory is not None:
        return OwnNetwork(make_own(config), config)
    backbone = build_backbone(config.backbone, config.output_stride, config.weights, config.resnet_style)
    classifier = DeepLabV2Head(backbone.out_channels, config.num_scores, config.aspp_dilations)
    return DeepLabV2(backbone, classifier, config)


def parameter_groups(network: SegmentationNetwork, lr: float, classifier_factor: float) -> list[dict[str, Any]]:
    """Parameter groups of all unfrozen parameters, with the classifier's learning rate times ``classifier_factor``.

    Frozen parameters are left out, since weight decay may change parameters even without a gradient.
    """
    head = {id(p) for p in network.head.parameters()}
    learning = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learning if id(p) not in head], "lr": lr},
        {"params": [p for p in learning if id(p) in head], "lr": lr * classifier_factor},
    ]
    return [group for group in groups if group["params"]]
