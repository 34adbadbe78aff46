"""UBNA: BatchNorm's statistics blended from the source's and the target's, without training.

Klingner et al., Unsupervised BatchNorm Adaptation (UBNA): A Domain Adaptation Method for Semantic Segmentation Without
Using Source Domain Representations (2022). Authors' code: github.com/ifnspaml/UBNA.
"""

import math
from itertools import islice

from atp.data.loading import TrainingImages, TrainingOrder
from atp.method.choice import BaselineSettings
from atp.models.network import SegmentationNetwork
from atp.settings import Count, NonNegative, Share
from atp.training.loop import History
from atp.training.normalisation import batchnorm_layers
from atp.training.prediction import chunks, read_chunks, update_batchnorm
from atp.training.run import Run


class Settings(BaselineSettings):
    """Without training, the common settings have no effect, except for ``reestimate_batchnorm``.

    Attributes:
        batches: number of batches. Authors' code: 50.
        batch_size: images per batch. Authors' code: 6.
        first_momentum: share of the first batch's statistics in the updated ones. Authors' code: .1.
        momentum_decay: rate at which this share falls from batch to batch. Authors' code: .08 from GTA5 to
            Cityscapes.
    """

    batches: Count = 50
    batch_size: Count = 6
    first_momentum: Share = 0.1
    momentum_decay: NonNegative = 0.08

    title = "UBNA"
    needs_batchnorm = True
    trains = False


def align(network: SegmentationNetwork, images: TrainingImages, settings: Settings, run: Run) -> History:
    """Update the running statistics with batches of decreasing weight; without a loss, history is empty.

    Ours: layers other than BatchNorm are in evaluation mode, and all BatchNorm layers are adapted, where the authors'
    network has them in the encoder alone. With several processes, each computes the same.
    """
    batchnorm_layers(network)
    # As many epochs as batches are always enough.
    order = TrainingOrder(len(images), settings.batch_size, settings.batches, run.seed)
    drawn = [images.samples[index] for keys in islice(order, settings.batches) for index, _ in keys]
    parts = chunks(drawn, images.size, settings.batch_size)
    batches = (batch for _, batch in read_chunks(parts, images.pixels, run.runtime))
    update_batchnorm(network, batches, run.runtime, lambda number: momentum(number, settings))
    return {}


def momentum(number: int, settings: Settings) -> float:
    """Share of a batch's statistics, first_momentum * exp(-momentum_decay * number), by its number from 0."""
    return settings.first_momentum * math.exp(-settings.momentum_decay * number)
