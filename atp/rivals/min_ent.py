"""MinEnt: entropy minimisation by the whole network.

Vu et al., ADVENT: Adversarial Entropy Minimization for Domain Adaptation in Semantic Segmentation (2019).
"""

from torch import Tensor, nn

from atp.config import AlignSection, RivalSettings
from atp.data.loading import Batch, TrainingImages
from atp.losses.entropy_minimization import entropy_loss
from atp.models.network import SegmentationNetwork
from atp.training.loop import History, Training
from atp.training.run import Run


class Settings(RivalSettings):
    """None of its own. Paper: SGD at 2.5e-4, as ATP's align."""


def adapt(
    network: SegmentationNetwork, images: TrainingImages, section: AlignSection, settings: Settings, run: Run
) -> History:
    """Train everything on the entropy.

    Paper: beside the source domain's cross-entropy, at a weight of .001 to 1. Ours: without it, as there is no source,
    at align's alpha; what else a lone loss's weight could do is the learning rate's.
    """

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        entropy = entropy_loss(model(batch.strong), batch.valid)
        return {"loss": section.alpha * entropy, "entropy": entropy}

    return Training(network, section, images, run).run(objective)
