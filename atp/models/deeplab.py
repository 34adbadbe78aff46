"""The classifier of DeepLabV2: logits from parallel dilated convolutions."""

from collections.abc import Sequence

from torch import Tensor, nn


class DeepLabV2Head(nn.Module):
    """Atrous spatial pyramid pooling of DeepLabV2: the SUM of 3x3 convolutions with different dilations.

    Chen et al., DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution, and Fully
    Connected CRFs, Sec. 3.2; four branches with dilations 6, 12, 18 and 24, weights drawn from N(0, 0.01), bias 0.

    Much public PyTorch code returns inside the loop over the branches and so sums only the first two. A model trained
    with it has two live branches, and two that still contain their initial noise; see ``atp.models.inspection``.

    Args:
        in_channels: D, the number of channels of the backbone's features.
        num_classes: C.
        dilations: dilation of each branch, in feature pixels.
    """

    def __init__(self, in_channels: int, num_classes: int, dilations: Sequence[int] = (6, 12, 18, 24)) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(in_channels, num_classes, kernel_size=3, padding=dilation, dilation=dilation)
            for dilation in dilations
        )
        for branch in self.branches:
            assert isinstance(branch, nn.Conv2d)
            nn.init.normal_(branch.weight, std=0.01)
            assert branch.bias is not None
            nn.init.zeros_(branch.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, D, h, w) to logits (N, C, h, w)."""
        scores: Tensor = self.branches[0](features)
        for branch in self.branches[1:]:
            scores = scores + branch(features)
        return scores
