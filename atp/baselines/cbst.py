"""CBST: rounds of training with class-balanced pseudo labels, with more labels in each round.

Zou et al., Unsupervised Domain Adaptation for Semantic Segmentation via Class-Balanced Self-Training (2018).
"""

from torch import Tensor, nn

from atp.baselines._class_balance import ClassBalancedLabeller, class_balanced_loss, in_rounds
from atp.data.loading import Batch, TrainingImages
from atp.losses.pixels import NO_LABEL, mean_where
from atp.method.choice import BaselineSettings
from atp.models.network import SegmentationNetwork
from atp.settings import Count, NonNegative, Positive, Share
from atp.training.loop import History, Training
from atp.training.run import Run


class Settings(BaselineSettings):
    """Paper: SGD at 1e-4, relative to ATP's 2.5e-4, decreasing in each round.

    Attributes:
        epochs: epochs of each round. Paper: 2.
        rounds: number of rounds, enough for the portion to reach its maximum. Paper: 7.
        portion, portion_step, portion_end: share of each class's pixels that are labelled: in the first round, increase
            per round, and maximum. Paper: .2, .05, .5.
        lr_decay: factor of the learning rate from round to round. Authors' code: 1 / sqrt(2).
    """

    lr_factor: Positive = 0.4
    epochs: Count | None = 2
    rounds: Count = 7
    portion: Share = 0.2
    portion_step: NonNegative = 0.05
    portion_end: Share = 0.5
    lr_decay: Positive = 0.5**0.5

    title = "CBST"


def align(network: SegmentationNetwork, images: TrainingImages, settings: Settings, run: Run) -> History:
    """Alternate between labelling with the current network and training the whole network on these labels.

    Paper: with the source domain's images and a spatial prior of its classes. Ours: without these, and without the
    paper's mining of patches with rare classes in the last rounds.
    """

    def train(number: int, job: Run) -> History:
        portion = min(settings.portion + number * settings.portion_step, settings.portion_end)
        labeller = ClassBalancedLabeller(network, images, portion, job)

        def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
            labels = labeller(batch)
            loss = class_balanced_loss(model(batch.strong), labels, labeller.thresholds, batch.valid)
            return {"loss": loss, "labelled": mean_where((labels != NO_LABEL).float(), batch.valid)}

        slower = settings.model_copy(update={"lr": settings.lr * settings.lr_decay**number})
        return Training(network, slower, images, job).run(objective)

    return in_rounds(run, settings.rounds, train)
