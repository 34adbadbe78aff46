"""MinEnt: entropy minimisation of the whole network.

Vu et al., ADVENT: Adversarial Entropy Minimization for Domain Adaptation in Semantic Segmentation (2019).
"""

from torch import Tensor, nn

from atp.data.loading import Batch, TrainingImages
from atp.losses.entropy import entropy_loss
from atp.method.choice import BaselineSettings
from atp.models.network import SegmentationNetwork
from atp.settings import NonNegative
from atp.training.loop import History, Training
from atp.training.run import Run


class Settings(BaselineSettings):
    """Paper: SGD at 2.5e-4, as in ATP's align.

    Attributes:
        weight: weight of the entropy. Paper: .001, with a source loss of weight 1.
    """

    weight: NonNegative = 0.001

    title = "MinEnt"

    @classmethod
    def strengths(cls) -> tuple[dict[str, float], ...]:
        """Higher weights: the published one is small relative to a source loss, and trains slowly without it."""
        return ({"weight": 0.01}, {"weight": 0.1}, {"weight": 1.0})


def align(network: SegmentationNetwork, images: TrainingImages, settings: Settings, run: Run) -> History:
    """Train the whole network to minimise entropy.

    Paper: together with the source domain's cross-entropy. Ours: without it, since source data is not available; the
    published weight then only slows training.
    """

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        entropy = entropy_loss(model(batch.strong), batch.valid)
        return {"loss": settings.weight * entropy, "entropy": entropy}

    return Training(network, settings, images, run).run(objective)
