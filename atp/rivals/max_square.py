"""Maximum squares, class-balanced in each image.

Chen, Xue, Cai: Domain Adaptation for Semantic Segmentation with Maximum Squares Loss (2019).
"""

from torch import Tensor, nn

from atp.config import AlignSection, NonNegative, RivalSettings, Share
from atp.data.loading import Batch, TrainingImages
from atp.losses.max_square import max_square_loss
from atp.models.network import SegmentationNetwork
from atp.training.loop import History, Training
from atp.training.run import Run


class Settings(RivalSettings):
    """Paper: SGD at 2.5e-4, as ATP's align.

    Attributes:
        balance: 0 is the plain loss. Paper: .2.
        weight: of the loss. Paper: .1, beside a source loss of weight 1.
    """

    weight: NonNegative = 0.1
    balance: Share = 0.2


def adapt(
    network: SegmentationNetwork, images: TrainingImages, section: AlignSection, settings: Settings, run: Run
) -> History:
    """Train everything on the maximum squares.

    Paper: beside the source domain's cross-entropy. Ours: without it, as there is no source, so that the published
    weight has nothing to balance and only slows the training down.
    """

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        squares = max_square_loss(model(batch.strong), batch.valid, balance=settings.balance)
        return {"loss": settings.weight * squares, "squares": squares}

    return Training(network, section, images, run).run(objective)
