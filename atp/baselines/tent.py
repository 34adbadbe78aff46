"""TENT: entropy minimisation of BatchNorm's scales and shifts only.

Wang et al., Tent: Fully Test-Time Adaptation by Entropy Minimization (2021).
"""

from typing import Literal

from torch import Tensor, nn

from atp.data.loading import Batch, TrainingImages
from atp.losses.entropy import entropy_loss
from atp.method.choice import BaselineSettings
from atp.models.network import SegmentationNetwork
from atp.settings import NonNegative
from atp.training.loop import History, Training
from atp.training.normalisation import batchnorm_layers
from atp.training.run import Run


class Settings(BaselineSettings):
    """Paper: SGD at 2.5e-4 on ImageNet, as in ATP's align, without weight decay; BatchNorm normalises by the batch."""

    weight_decay: NonNegative = 0.0
    batchnorm: Literal["train", "eval"] = "train"

    title = "TENT"
    needs_batchnorm = True


def align(network: SegmentationNetwork, images: TrainingImages, settings: Settings, run: Run) -> History:
    """Train only the affine parameters of BatchNorm.

    Ours: as many epochs as align, where TENT adapts and predicts in a single pass; predictions use running statistics,
    which training re-estimates, where TENT uses those of the batch.
    """
    network.requires_grad_(False)
    for layer in batchnorm_layers(network):
        layer.requires_grad_(True)

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"loss": entropy_loss(model(batch.strong), batch.valid)}

    return Training(network, settings, images, run).run(objective)
