"""MIC: a student that sees few patches of an image learns what its teacher predicts for the whole image.

Hoyer et al., MIC: Masked Image Consistency for Context-Enhanced Domain Adaptation (2023). Authors' code:
github.com/lhoyer/MIC, folder seg.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from atp.baselines._teacher import most_probable, teacher_probabilities
from atp.data.loading import Batch, TrainingImages
from atp.losses.consistency import confidence_share, consistency_loss
from atp.method.choice import BaselineSettings
from atp.models.network import SegmentationNetwork
from atp.settings import Decay, NonNegative, Positive, Share
from atp.training.ema import AveragedNetwork
from atp.training.loop import History, Training
from atp.training.mixing import hidden_blocks, hide
from atp.training.run import Run


class Settings(BaselineSettings):
    """Authors' code: AdamW at 6e-5. Ours: SGD at align's rate, since rates of different optimisers do not compare.

    Attributes:
        ema: decay of the teacher's weights. Authors' code: .999.
        masked: share of the patches that the student does not see. Authors' code: .7.
        patch: side of a patch relative to the image's shorter side. Authors' code: 64 pixels of 1024, 32 of 512.
        confidence: the loss is weighted by the share of an image's pixels with at least this probability. Authors'
            code: .968.
        whole: weight of the same loss on the whole image, the self-training beside which the authors' code masks.
            Authors' code: 1, on images mixed with those of the source domain.
        batchnorm: Authors' code: ``train``.
    """

    ema: Decay = 0.999
    masked: Share = 0.7
    patch: Positive = 1 / 16
    confidence: Share = 0.968
    whole: NonNegative = 1.0
    batchnorm: Literal["train", "eval"] = "train"

    title = "MIC"


def align(network: SegmentationNetwork, images: TrainingImages, settings: Settings, run: Run) -> History:
    """Train the whole network on whole and masked images.

    Paper: with the source domain's cross-entropy. Ours: without it, since source data is not available, and without
    images mixed with the source's; with align's colour augmentation. The weight is that of each image, as in the paper;
    the authors' code takes the batch's. Ours: the teacher is in evaluation mode.
    """
    teacher = AveragedNetwork(network, settings.ema)

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        probabilities = teacher_probabilities(teacher, batch, run.runtime)
        labels = most_probable(probabilities, batch.valid)
        quality = confidence_share(probabilities, settings.confidence, batch.valid)
        hidden = hide(hidden_blocks(labels, share=settings.masked, side=settings.patch), batch.strong, network.mean)
        # In one pass, so that BatchNorm's statistics are not those of masked images alone.
        views = torch.cat([batch.strong, hidden])
        whole, masked = (consistency_loss(logits, labels, quality) for logits in model(views).chunk(2))
        return {
            "loss": settings.whole * whole + masked,
            "whole": whole,
            "masked": masked,
            "quality": quality.mean(),
        }

    return Training(network, settings, images, run, ema=teacher).run(objective)
