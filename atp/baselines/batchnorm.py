"""Re-estimation of BatchNorm's statistics on the target, without training.

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
    """No settings of its own; without training, the common settings have no effect."""

    title = "BatchNorm only"
    needs_batchnorm = True
    trains = False


def align(network: SegmentationNetwork, images: TrainingImages, settings: Settings, run: Run) -> History:
    """Replace the running statistics by their mean over the batches of one pass; without a loss, history is empty."""
    batchnorm_layers(network)
    reestimate_batchnorm(network, images.samples, images.size, run.runtime, images.window, images.prepared)
    return {}
