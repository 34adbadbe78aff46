"""Bidirectional self-training on positive and negative pseudo labels (Sec. 3.2, Eqs. 5-8)."""

import logging

from torch import Tensor, nn

from atp.data.loading import Batch, Images, TrainingImages
from atp.losses.pseudo_label import negative_pseudo_label_loss, positive_pseudo_label_loss
from atp.method.settings import DumpSettings, TeachSettings
from atp.models.network import SegmentationNetwork
from atp.pseudo_labels.negatives import negative_labels
from atp.pseudo_labels.store import PseudoLabelStore, StoredLabels
from atp.training.carried import Carried
from atp.training.ema import AveragedNetwork
from atp.training.loop import History, Training
from atp.training.mixing import class_mix_masks, mix
from atp.training.run import Run

logger = logging.getLogger(__name__)


def taught_images(target: Images, labels: PseudoLabelStore, settings: TeachSettings) -> TrainingImages:
    """Combine the target's images with the pseudo labels that ``teach`` needs."""
    negatives = settings.negative > 0 and settings.negatives == "dumped"
    return target.augmented(settings.augmentation, StoredLabels(labels, negatives=negatives))


def teach(
    network: SegmentationNetwork,
    images: TrainingImages,
    settings: TeachSettings,
    dumping: DumpSettings,
    run: Run,
    carried: Carried | None = None,
) -> tuple[SegmentationNetwork, History]:
    """Train ``network`` in place on pseudo labels.

    Args:
        dumping: settings of the pseudo labels; ``online`` negatives use the same threshold (Eq. 6).
        carried: state of the earlier rounds (``settings.rounds_per_schedule``), updated in place.

    Returns:
        The taught model, which is the network or its moving average, and the history.
    """
    if settings.class_mix and settings.batch_size == run.runtime.world_size and run.runtime.is_main:
        logger.warning("%s: class_mix has no effect with one image per process; raise teach.batch_size", run.name)
    ema = AveragedNetwork(network, settings.ema) if settings.ema else None

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        strong, positives, negatives, valid = batch.strong, batch.labels, batch.negatives, batch.valid
        if settings.class_mix:
            masks = class_mix_masks(positives)
            strong = mix(masks, strong, strong.roll(1, 0))
            positives = mix(masks, positives, positives.roll(1, 0))
            negatives = mix(masks, negatives, negatives.roll(1, 0))
            valid = mix(masks, valid, valid.roll(1, 0))
        logits = model(strong)
        if settings.negatives == "online":
            p = logits.detach().float().softmax(1)
            negatives = negative_labels(p, dumping.negative_threshold, cap=dumping.negative_cap)  # Eq. 6
        positive = positive_pseudo_label_loss(logits, positives, valid)  # Eq. 5
        losses = {"loss": settings.positive * positive, "positive": positive}
        if settings.negative > 0:
            losses["negative"] = negative_pseudo_label_loss(logits, negatives, valid)  # Eq. 7
            losses["loss"] = losses["loss"] + settings.negative * losses["negative"]
        return losses

    history = Training(network, settings, images, run, ema=ema, carried=carried or Carried()).run(objective)
    return (ema.network if ema else network), history
