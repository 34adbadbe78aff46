"""Distillation of a black box's predictions for the target images into a student (Sec. 3.4, Eq. 11)."""

import torch
from torch import Tensor, nn

from atp.data.labels import IGNORE
from atp.data.loading import Batch, TrainingImages
from atp.losses.distillation import dense_probabilities, distillation_loss
from atp.method.settings import DistillSettings
from atp.models.network import SegmentationNetwork
from atp.training.loop import History, Training
from atp.training.run import Run


def distill(network: SegmentationNetwork, images: TrainingImages, settings: DistillSettings, run: Run) -> History:
    """Train the student ``network`` in place on the black box's predictions."""

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = model(batch.strong)
        classes, probabilities = batch.classes, batch.probabilities
        if settings.answers == "hard":
            classes = batch.labels[:, None]
            probabilities = torch.ones_like(classes, dtype=torch.float32)
        # Computed on the device, to avoid copying dense probabilities to it.
        target = dense_probabilities(classes, probabilities, network.num_classes)
        return {"loss": distillation_loss(logits, target, batch.valid & (batch.labels != IGNORE))}  # Eq. 11

    return Training(network, settings, images, run).run(objective)
