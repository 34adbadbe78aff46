"""SHOT-IM: information maximisation with a frozen classifier.

Liang, Hu, Feng: Do We Really Need to Access the Source Data? Source Hypothesis Transfer for Unsupervised Domain
Adaptation (2020), without its pseudo labels by clustering, which are for images, not pixels.
"""

from torch import Tensor, nn

from atp.data.loading import Batch, TrainingImages
from atp.losses.diversity import diversity_loss
from atp.losses.entropy import entropy_loss
from atp.method.choice import BaselineSettings
from atp.models.network import SegmentationNetwork
from atp.settings import NonNegative, Positive
from atp.training.loop import History, Training
from atp.training.run import Run


class Settings(BaselineSettings):
    """Paper: SGD at 1e-3 for the feature extractor, four times that of ATP's align.

    Attributes:
        diversity: weight of L_div. Paper: 1.
        weight: weight of the sum of both terms. Paper: 1.
    """

    lr_factor: Positive = 4.0
    diversity: NonNegative = 1.0
    weight: NonNegative = 1.0

    title = "SHOT-IM"

    @classmethod
    def strengths(cls) -> tuple[dict[str, float], ...]:
        """Align's learning rate and diversity, and a lower rate."""
        return ({"lr_factor": 1.0}, {"lr_factor": 1.0, "diversity": 0.3}, {"lr_factor": 0.3, "diversity": 0.3})


def align(network: SegmentationNetwork, images: TrainingImages, settings: Settings, run: Run) -> History:
    """Train the backbone to maximise the mutual information of pixels and classes, with a frozen classifier."""
    network.freeze_classifier()

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        loss = information_maximization_loss(model(batch.strong), batch.valid, diversity=settings.diversity)
        return {"loss": settings.weight * loss, "information": -loss}

    return Training(network, settings, images, run).run(objective)


def information_maximization_loss(logits: Tensor, valid: Tensor, *, diversity: float = 1.0) -> Tensor:
    """Entropy of the predictions minus the entropy of their mean.

    Liang, Hu, Feng: Do We Really Need to Access the Source Data? Source Hypothesis Transfer for Unsupervised Domain
    Adaptation (2020), Eq. 3: L_ent + L_div, the negative mutual information of pixel and class.

    Args:
        logits: (N, C, H, W), C >= 2, any float dtype; computed in at least float32.
        valid: False at padding, (N, H, W), bool.
        diversity: weight of L_div, >= 0. Paper: 1.

    Returns:
        Scalar in [-diversity, 1], in units of log C; -diversity for certain predictions with equally frequent classes,
        0 if no pixel is valid.

    Paper: for images; here for pixels. p-hat is the mean over the batch (of this process). Ours: both terms divided by
    log C, which preserves their balance.
    """
    return entropy_loss(logits, valid) + diversity * diversity_loss(logits, valid, weighted=False)
