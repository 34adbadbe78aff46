"""CoTTA: a student learns the labels of a slow teacher, and is partly reset to the source model at every step.

Wang et al., Continual Test-Time Domain Adaptation (2022), by its experiments in segmentation. Their code is linked from
github.com/qinenergy/cotta; its values are those of the copy in github.com/zwbx/SHIFT-Continuous_Test_Time_Adaptation.
"""

import copy
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from atp.baselines._teacher import hand_over, most_probable
from atp.data.loading import Batch, TrainingImages, mix_seed
from atp.losses.pixels import mean_where
from atp.losses.supervised import segmentation_cross_entropy
from atp.method.choice import BaselineSettings
from atp.models.network import SegmentationNetwork
from atp.settings import Decay, NonNegative, Positive, Share
from atp.training.ema import AveragedNetwork
from atp.training.loop import History, Training
from atp.training.prediction import Predictor
from atp.training.run import Run


class Settings(BaselineSettings):
    """Authors' code: Adam at 7.5e-6 with single images. Ours: SGD at align's rate, since the rates do not compare.

    Attributes:
        ema: decay of the teacher's weights. Authors' code: .999.
        confidence: where the source model's probability is above, the teacher's label is of the image as it is,
            elsewhere of the average over augmentations. Authors' code: .69.
        scales: the augmentations, each with and without mirroring. Authors' code: these.
        restore: share of the student's weights that return to the source model's after a step. Authors' code: .01.
        weight_decay: Authors' code: 0.
        batchnorm: Authors' code: ``eval``.
    """

    ema: Decay = 0.999
    confidence: Share = 0.69
    scales: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
    restore: Share = 0.01
    weight_decay: NonNegative = 0.0
    batchnorm: Literal["train", "eval"] = "eval"

    title = "CoTTA"

    @classmethod
    def strengths(cls) -> tuple[dict[str, float], ...]:
        """Faster teachers, since the published one is for thousands of steps, and a lower rate."""
        return ({"ema": 0.99}, {"ema": 0.9}, {"ema": 0.99, "lr_factor": 0.3})


def align(network: SegmentationNetwork, images: TrainingImages, settings: Settings, run: Run) -> History:
    """Train the whole network; the teacher becomes the adapted model, since the paper predicts with it.

    Ours: as many epochs as align, where CoTTA adapts and predicts in a single pass, and with align's augmentation.
    """
    source = copy.deepcopy(network).eval().requires_grad_(False)
    teacher = RestoringTeacher(network, source, settings, run.seed)
    confidences = Predictor([(source, 1.0)], run.runtime)
    plain = Predictor([(teacher.network, 1.0)], run.runtime)
    averaged = Predictor([(teacher.network, 1.0)], run.runtime, flip=True, scales=settings.scales)

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        run.runtime.share_buffers(teacher.network)  # as in teacher_probabilities
        confident = confidences.probabilities(batch.weak).amax(1) > settings.confidence
        labels = refined_labels(
            plain.probabilities(batch.weak), averaged.probabilities(batch.weak), confident, batch.valid
        )
        loss = segmentation_cross_entropy(model(batch.strong), labels)
        return {"loss": loss, "confident": mean_where(confident.float(), batch.valid)}

    history = Training(network, settings, images, run, ema=teacher).run(objective)
    hand_over(teacher, network)
    return history


def refined_labels(plain: Tensor, averaged: Tensor, confident: Tensor, valid: Tensor) -> Tensor:
    """The teacher's labels, 255 at padding, (N, H, W), int64.

    Args:
        plain, averaged: its predictions for the images as they are and averaged over augmentations, (N, C, H, W).
        confident: where the source model is, (N, H, W), bool.
        valid: False at padding, (N, H, W), bool.
    """
    return most_probable(torch.where(confident[:, None], plain, averaged), valid)


class RestoringTeacher(AveragedNetwork):
    """A teacher that resets a random part of the student when it has learned from it.

    Args:
        source: the model whose weights are restored.
        seed: of the choice of weights, which is the same in every process.
    """

    def __init__(
        self, network: SegmentationNetwork, source: SegmentationNetwork, settings: Settings, seed: int
    ) -> None:
        super().__init__(network, settings.ema, ramp=False)
        self._source, self._share, self._seed = source, settings.restore, seed

    @torch.no_grad()
    def update(self, network: SegmentationNetwork) -> None:
        super().update(network)
        device = next(network.parameters()).device
        generator = torch.Generator(device).manual_seed(mix_seed(self._seed, self.steps))
        for own, original in zip(network.parameters(), self._source.parameters(), strict=True):
            restored = torch.rand(own.shape, generator=generator, device=device) < self._share
            own.copy_(torch.where(restored, original, own))
