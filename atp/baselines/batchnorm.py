"""BatchNorm's statistics re-estimated on the target, and nothing else.

Li et al., Adaptive Batch Normalization for Practical Domain Adaptation (2018).
"""

from atp.data.loading import TrainingImages
from atp.method.choice import BaselineSettings
from atp.models.network import SegmentationNetwork
from atp.training.loop import History
from atp.training.normalisation import batchnorm_layers
from atp.training.prediction import reestimate_batchnorm
from atp.training.run import Run


class Settings(BaselineSettings):
    """None of its own; nothing is trained, so that the others have no effect."""

    title = "BatchNorm only"
    needs_batchnorm = True
    trains = False


def align(network: SegmentationNetwork, images: TrainingImages, settings: Settings, run: Run) -> History:
    """Replace the running statistics by the mean of the batches of one pass; no history, as there is no loss."""
    batchnorm_layers(network)
    reestimate_batchnorm(network, images.samples, images.size, run.runtime)
    return {}
