"""The projection head that regional contrast (ReCo) trains jointly with the network."""

from torch import Tensor, nn
from torch.nn import functional as F

from atp.data.labels import IGNORE
from atp.losses.regional_contrast import regional_contrast_loss

RELIABLE = 0.7
"""Minimum confidence of a teacher's label that is used (Liu et al., Bootstrapping Semantic Segmentation with Regional
Contrast, 2022: delta_w)."""


class RegionalContrast(nn.Module):
    """A 1x1 convolution from features to representations, and their contrastive loss.

    Args:
        channels: D, the number of feature channels.
        dimensions: number of dimensions of the representations. Paper: 256.
    """

    def __init__(self, channels: int, dimensions: int = 256) -> None:
        super().__init__()
        self.head = nn.Conv2d(channels, dimensions, kernel_size=1)

    def forward(self, features: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Regional contrast at the features' resolution.

        Args:
            features: the classifier's input, (N, D, h, w).
            logits: logits of the same images, (N, C, H, W); used without gradient to find hard pixels.
            labels: class ids, 255 = ignored pixels, (N, H, W), int64.

        Returns:
            Scalar, see ``regional_contrast_loss``.
        """
        size = features.shape[-2:]
        labels = F.interpolate(labels[:, None].float(), size, mode="nearest").long()
        p = F.interpolate(logits.detach().float(), size, mode="nearest").softmax(1)
        confidence = p.gather(1, labels.where(labels != IGNORE, 0))[:, 0]
        return regional_contrast_loss(self.head(features), labels[:, 0], confidence)
