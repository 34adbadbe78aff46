"""SHOT-IM: information maximisation with a frozen classifier.

Liang, Hu, Feng: Do We Really Need to Access the Source Data? Source Hypothesis Transfer for Unsupervised Domain
Adaptation (2020), without its pseudo labels by clustering, which are of images, not of pixels.
"""

from torch import Tensor, nn

from atp.config import AlignSection, NonNegative, RivalSettings
from atp.data.loading import Batch, TrainingImages
from atp.losses.information_maximization import information_maximization_loss
from atp.models.network import SegmentationNetwork
from atp.training.loop import History, Training
from atp.training.run import Run


class Settings(RivalSettings):
    """Paper: SGD at 1e-3 for the feature extractor, four times that of ATP's align.

    Attributes:
        diversity: weight of L_div. Paper: 1.
        weight: of both together. Paper: 1.
    """

    lr_factor: float = 4.0
    diversity: NonNegative = 1.0
    weight: NonNegative = 1.0


def adapt(
    network: SegmentationNetwork, images: TrainingImages, section: AlignSection, settings: Settings, run: Run
) -> History:
    """Train the features on the mutual information of pixels and classes; the classifier, the hypothesis, stays."""
    network.freeze_classifier()

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        loss = information_maximization_loss(model(batch.strong), batch.valid, diversity=settings.diversity)
        return {"loss": settings.weight * loss, "information": -loss}

    return Training(network, section, images, run).run(objective)
