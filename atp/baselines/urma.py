"""URMA: pseudo labels, entropy minimisation, and robustness of features to dropout.

Sivaprasad, Fleuret: Uncertainty Reduction for Model Adaptation in Semantic Segmentation (2021).
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atp.baselines._class_balance import ClassBalancedLabeller
from atp.data.loading import Batch, TrainingImages
from atp.errors import InputError
from atp.losses.entropy import entropy_loss
from atp.losses.pixels import in_full_precision, mean_where
from atp.losses.supervised import segmentation_cross_entropy
from atp.method.choice import BaselineSettings
from atp.models.network import SegmentationNetwork
from atp.settings import Count, NonNegative, Positive, Share
from atp.training.classifier_tap import ClassifierTap
from atp.training.loop import History, Training
from atp.training.run import Run


class Settings(BaselineSettings):
    """Authors' code: SGD at 5e-5, a fifth of ATP's.

    Attributes:
        epochs: passes over the training images. Authors' code: 2.
        portion: share of each class's pixels that are labelled, as in CBST. Authors' code: .2.
        entropy: weight of the entropy. Authors' code: 1.
        uncertainty: weight of the decoders' disagreement. Authors' code: .1.
        decoders, dropout: number of decoders, and share of feature channels dropped for each. Authors' code: 4, .5.
    """

    lr_factor: Positive = 0.2
    epochs: Count | None = 2
    portion: Share = 0.2
    entropy: NonNegative = 1.0
    uncertainty: NonNegative = 0.1
    decoders: Count = 4
    dropout: Share = 0.5

    title = "URMA"


def align(network: SegmentationNetwork, images: TrainingImages, settings: Settings, run: Run) -> History:
    """Train the whole network and auxiliary decoders on the source model's confident labels and mutual agreement.

    Ours: the decoders start as copies of the classifier, to support any network, where the authors' code creates new
    DeepLab classifiers; they are compared at the classifier's resolution.
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
        return Training(network, settings, images, run, extra=decoders).run(objective)


def score_map(output: object) -> Tensor:
    if not isinstance(output, Tensor) or output.ndim != 4:
        told = f"the shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise InputError(
            f"params.yaml: model.classifier: returns {told}; urma needs a classifier that returns logits (N, C, h, w)"
        )
    return output


def uncertainty_loss(auxiliary: Sequence[Tensor], logits: Tensor, valid: Tensor) -> Tensor:
    """Disagreement of decoders whose features have dropout with the network's own classifier.

    Sivaprasad, Fleuret: Uncertainty Reduction for Model Adaptation in Semantic Segmentation (2021), Sec. 3: squared
    difference of the softmax outputs, summed over the decoders; the authors' code takes the mean over pixels and
    classes.

    Args:
        auxiliary: logits of the decoders whose features have dropout, each (N, C, H, W), any float dtype; computed in
            at least float32.
        logits: logits of the network itself, (N, C, H, W), the target, without gradient.
        valid: False at padding, (N, H, W), bool.

    Returns:
        Scalar in [0, 2 K / C] for K decoders, dimensionless, mean over valid pixels and classes; 0 if they agree or no
        pixel is valid.
    """
    target = in_full_precision(logits).detach().softmax(1)
    losses = [mean_where(((in_full_precision(own).softmax(1) - target) ** 2).mean(1), valid) for own in auxiliary]
    return torch.stack(losses).sum()
