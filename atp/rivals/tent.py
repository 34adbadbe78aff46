"""TENT: entropy minimisation by BatchNorm's scales and shifts alone.

Wang et al., Tent: Fully Test-Time Adaptation by Entropy Minimization (2021).
"""

from torch import Tensor, nn

from atp.config import AlignSection, RivalSettings
from atp.data.loading import Batch, TrainingImages
from atp.losses.entropy_minimization import entropy_loss
from atp.models.network import SegmentationNetwork
from atp.training.loop import History, Training
from atp.training.normalisation import batchnorm_layers
from atp.training.run import Run


class Settings(RivalSettings):
    """None of its own. Paper: SGD at 2.5e-4 on ImageNet, as ATP's align."""


def adapt(
    network: SegmentationNetwork, images: TrainingImages, section: AlignSection, settings: Settings, run: Run
) -> History:
    """Train the affine parameters of BatchNorm, normalising by the batch, without weight decay.

    Ours: as many passes as align where TENT adapts and answers in one, and answers by running statistics, which the
    passes re-estimate, where TENT answers by the batch's.
    """
    network.requires_grad_(False)
    for layer in batchnorm_layers(network):
        layer.requires_grad_(True)
    section = section.model_copy(update={"batchnorm": "train", "weight_decay": 0.0})

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"loss": entropy_loss(model(batch.strong), batch.valid)}

    return Training(network, section, images, run).run(objective)
