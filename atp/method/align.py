"""Implicit feature alignment by curriculum entropy and diversity (Sec. 3.1, Eqs. 2 and 3)."""

from torch import Tensor, nn

from atp.data.loading import Batch, TrainingImages
from atp.losses.diversity import diversity_loss
from atp.losses.entropy import curriculum_entropy_loss, rising_entropy_share
from atp.method.settings import AlignSettings
from atp.models.network import SegmentationNetwork
from atp.training.loop import History, Training
from atp.training.run import Run

Settings = AlignSettings


def align(network: SegmentationNetwork, images: TrainingImages, settings: AlignSettings, run: Run) -> History:
    """Align the target's features with the source classifier.

    Args:
        network: trained in place; with ``settings.freeze_classifier`` its classifier stays bit-identical.
        images: images of the target domain.
    """
    if settings.freeze_classifier:
        network.freeze_classifier()

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = model(batch.strong)
        entropy = curriculum_entropy_loss(
            logits, batch.valid, gamma=settings.gamma, weight_grad=settings.weight_grad
        )  # Eq. 2
        diversity = diversity_loss(
            logits,
            batch.valid,
            sharpness=settings.sharpness,
            weighted=settings.weighted,
            weight_grad=settings.diversity_grad,
            per_image=settings.per_image,
        )  # Eq. 3
        return {
            "loss": settings.alpha * entropy + settings.diversity * diversity,
            "entropy": entropy,
            "diversity": diversity,
            "rising_entropy": rising_entropy_share(logits, batch.valid, settings.gamma),
        }

    return Training(network, settings, images, run).run(objective)
