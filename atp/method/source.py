"""Training of the source model on labelled images with cross-entropy (Eq. 1), if none is given."""

from torch import Tensor, nn

from atp.data.loading import Batch, TrainingImages
from atp.losses.supervised import segmentation_cross_entropy
from atp.method.settings import SourceSettings
from atp.models.network import SegmentationNetwork
from atp.training.loop import History, Training
from atp.training.run import Run


def train_source(network: SegmentationNetwork, images: TrainingImages, settings: SourceSettings, run: Run) -> History:
    """Train ``network`` in place on labelled images."""

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"loss": segmentation_cross_entropy(model(batch.strong), batch.labels)}

    return Training(network, settings, images, run).run(objective)
