"""MinEnt: entropy minimisation by the whole network.

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
    """Paper: SGD at 2.5e-4, as ATP's align.

    Attributes:
        weight: of the entropy. Paper: .001, beside a source loss of weight 1.
    """

    weight: NonNegative = 0.001

    title = "MinEnt"

    @classmethod
    def strengths(cls) -> tuple[dict[str, float], ...]:
        """Beside a source loss the published weight is small, and slow alone."""
        return ({"weight": 0.1},)


def align(network: SegmentationNetwork, images: TrainingImages, settings: Settings, run: Run) -> History:
    """Train everything on the entropy.

    Paper: beside the source domain's cross-entropy. Ours: without it, as there is no source, so that the published
    weight has nothing to balance and only slows the training down.
    """

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        entropy = entropy_loss(model(batch.strong), batch.valid)
        return {"loss": settings.weight * entropy, "entropy": entropy}

    return Training(network, settings, images, run).run(objective)
