"""BatchNorm's statistics re-estimated on the target, and nothing else.

Li et al., Adaptive Batch Normalization for Practical Domain Adaptation (2018).
"""

from atp.config import AlignSection, RivalSettings
from atp.data.loading import TrainingImages
from atp.models.network import SegmentationNetwork
from atp.training.loop import History
from atp.training.normalisation import batchnorm_layers
from atp.training.prediction import reestimate_batchnorm
from atp.training.run import Run


class Settings(RivalSettings):
    """None of its own; nothing is trained, so that those there are have no effect."""


def adapt(
    network: SegmentationNetwork, images: TrainingImages, section: AlignSection, settings: Settings, run: Run
) -> History:
    """Replace the running statistics by the mean of the batches of one pass; no history, as there is no loss."""
    batchnorm_layers(network)
    reestimate_batchnorm(network, images.samples, images.size, run.runtime)
    return {}
