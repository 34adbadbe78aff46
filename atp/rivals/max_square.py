"""Maximum squares, class-balanced in each image.

Chen, Xue, Cai: Domain Adaptation for Semantic Segmentation with Maximum Squares Loss (2019).
"""

from torch import Tensor, nn

from atp.config import AlignSection, RivalSettings, Share
from atp.data.loading import Batch, TrainingImages
from atp.losses.max_square import max_square_loss
from atp.models.network import SegmentationNetwork
from atp.training.loop import History, Training
from atp.training.run import Run


class Settings(RivalSettings):
    """Paper: SGD at 2.5e-4, as ATP's align.

    Attributes:
        balance: 0 is the plain loss. Paper: .2.
    """

    balance: Share = 0.2


def adapt(
    network: SegmentationNetwork, images: TrainingImages, section: AlignSection, settings: Settings, run: Run
) -> History:
    """Train everything on the maximum squares.

    Paper: beside the source domain's cross-entropy, at a weight of .1 to 1. Ours: without it, as there is no source, at
    align's alpha; what else a lone loss's weight could do is the learning rate's.
    """

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        squares = max_square_loss(model(batch.strong), batch.valid, balance=settings.balance)
        return {"loss": section.alpha * squares, "squares": squares}

    return Training(network, section, images, run).run(objective)
