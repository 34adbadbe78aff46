"""URMA: pseudo labels, entropy, and features that survive dropout.

Sivaprasad, Fleuret: Uncertainty Reduction for Model Adaptation in Semantic Segmentation (2021).
"""

import copy

from torch import Tensor, nn
from torch.nn import functional as F

from atp.config import AlignSection, Count, NonNegative, RivalSettings, Share
from atp.data.loading import Batch, TrainingImages
from atp.errors import InputError
from atp.losses.entropy_minimization import entropy_loss
from atp.losses.supervised import segmentation_cross_entropy
from atp.losses.uncertainty import uncertainty_loss
from atp.models.network import SegmentationNetwork
from atp.training.classifier_tap import ClassifierTap
from atp.training.labeller import ClassBalancedLabeller
from atp.training.loop import History, Training
from atp.training.run import Run


class Settings(RivalSettings):
    """Authors' code: SGD at 5e-5, a fifth of ATP's.

    Attributes:
        epochs: Authors' code: 2.
        portion: share of each class's pixels that are labelled, as in CBST. Authors' code: .2.
        entropy: weight of the entropy. Authors' code: 1.
        uncertainty: weight of the decoders' disagreement. Authors' code: .1.
        decoders, dropout: how many, and the share of the features' channels that each misses. Authors' code: 4, .5.
    """

    lr_factor: float = 0.2
    epochs: Count | None = 2
    portion: Share = 0.2
    entropy: NonNegative = 1.0
    uncertainty: NonNegative = 0.1
    decoders: Count = 4
    dropout: Share = 0.5


def adapt(
    network: SegmentationNetwork, images: TrainingImages, section: AlignSection, settings: Settings, run: Run
) -> History:
    """Train everything, and decoders beside it, to agree on the source model's confident labels and with each other.

    Ours: the decoders begin as copies of the classifier, where the authors' code draws new ones of DeepLab's kind, so
    that any network has them; they are compared at the classifier's own resolution.
    """
    decoders = nn.ModuleList(copy.deepcopy(network.head) for _ in range(settings.decoders)).requires_grad_(True)
    labeller = ClassBalancedLabeller(network, images, settings.portion, run)

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = model(batch.strong)
        scores = score_map(tap.output)
        thinned = [score_map(tap.through(decoder, lambda f: F.dropout2d(f, settings.dropout))) for decoder in decoders]
        valid = F.interpolate(batch.valid[:, None].float(), scores.shape[-2:], mode="nearest")[:, 0] > 0
        supervised = segmentation_cross_entropy(logits, labeller(batch))
        entropy = entropy_loss(logits, batch.valid)
        uncertainty = uncertainty_loss(thinned, scores, valid)
        return {
            "loss": supervised + settings.entropy * entropy + settings.uncertainty * uncertainty,
            "supervised": supervised,
            "entropy": entropy,
            "uncertainty": uncertainty,
        }

    with ClassifierTap(network) as tap:
        return Training(network, section, images, run, extra=decoders).run(objective)


def score_map(output: object) -> Tensor:
    if not isinstance(output, Tensor) or output.ndim != 4:
        told = f"the shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise InputError(
            f"params.yaml: model.classifier: it returns {told}; urma needs one that returns scores (N, C, h, w)"
        )
    return output
