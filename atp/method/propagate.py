"""Semi-supervised learning from easy to hard target images (Sec. 3.3, Eq. 10)."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib import import_module

import torch
from torch import Tensor, nn

from atp.data.loading import Images, PairBatch, PairedImages
from atp.losses.consistency import confidence_share, consistency_loss
from atp.losses.pseudo_label import negative_pseudo_label_loss
from atp.losses.supervised import segmentation_cross_entropy
from atp.method.settings import PropagateSettings
from atp.models.network import SegmentationNetwork
from atp.pseudo_labels.store import PseudoLabelStore, StoredLabels
from atp.training.classifier_tap import ClassifierTap, feature_dropout
from atp.training.contrast import RELIABLE
from atp.training.ema import AveragedNetwork
from atp.training.loop import History, Training
from atp.training.run import Run
from atp.training.views import Seen, View


def paired_images(
    target: Images, easy: Sequence[str], hard: Sequence[str], labels: PseudoLabelStore, settings: PropagateSettings
) -> tuple[PairedImages, Tensor | None]:
    """Pair easy images, which have pseudo labels, with hard ones, and compute the easy images' sampling weights.

    Args:
        easy: names of the target images with low entropy.
        hard: names of the others.
        labels: pseudo labels of at least the easy images.
    """
    stored = StoredLabels(labels, negatives=settings.negative > 0)
    second = getattr(import_module(settings.module), "SECOND_VIEW", False)
    pairs = PairedImages(
        target.named(easy).augmented(settings.augmentation, stored),
        target.named(hard).augmented(settings.augmentation, second=second),
    )
    return pairs, rarity_weights([label_counts(labels, name) for name in easy], settings.balance)


def propagate(
    network: SegmentationNetwork,
    images: PairedImages,
    settings: PropagateSettings,
    run: Run,
    weights: Tensor | None = None,
) -> tuple[SegmentationNetwork, History]:
    """Train ``network`` in place on easy images by their pseudo labels and hard ones by consistency with a teacher.

    Args:
        weights: relative sampling weights of the easy images; None samples uniformly.

    Returns:
        The adapted model, which is the teacher or the network (``settings.hand_on``), and the history.
    """
    ema = AveragedNetwork(network, settings.ema) if settings.ema else None
    teacher = ema.network if ema else network
    tap = ClassifierTap(network)
    mixing = import_module(settings.module)
    make_contrast: Callable[[int], nn.Module] | None = getattr(mixing, "Contrast", None)
    contrast = contrast_head(make_contrast, network, images, tap, run) if make_contrast else None
    confidence: Callable[..., Tensor] = getattr(mixing, "confidence", confidence_share)
    make_views: Callable[[Seen], list[View]] = getattr(
        mixing, "views", lambda seen: [seen.strong.pasted(mixing.masks(seen.easy.labels), seen.easy)]
    )

    def objective(model: nn.Module, batch: PairBatch) -> dict[str, Tensor]:
        easy, hard = batch.easy, batch.hard
        # Only the main process's BatchNorm statistics are saved, and a resumed training must have the same teachers.
        run.runtime.share_buffers(teacher)
        with torch.no_grad():
            # Eq. 10's M': without gradient, on the image without colour augmentation, in evaluation mode.
            was_training = teacher.training
            probabilities = teacher.eval()(hard.weak).float().softmax(1)
            teacher.train(was_training)
            taught = probabilities.argmax(1).masked_fill(~hard.valid, 255)
            reliable = taught.masked_fill(probabilities.amax(1) < RELIABLE, 255)
            sure = confidence(probabilities, settings.confidence, hard.valid)
            sure = (sure[:, None, None] if sure.ndim == 1 else sure).expand(taught.shape)
        weak, strong, second = (View(image, taught, reliable, sure) for image in (hard.weak, hard.strong, hard.second))
        views = make_views(Seen(easy, weak, strong, second, network.mean))
        # A single forward pass shares the batch statistics and costs less than several.
        dropout = torch.tensor([0.0, *(view.dropout for view in views)]).repeat_interleave(len(easy.labels))
        with feature_dropout(network, dropout):
            logits = model(torch.cat([easy.strong, *(view.image for view in views)]))
        logits_easy, *logits_hard = logits.chunk(1 + len(views))
        supervised = segmentation_cross_entropy(logits_easy, easy.labels)
        terms = [
            view.weight * consistency_loss(each, view.labels, view.confidence)
            for view, each in zip(views, logits_hard, strict=True)
        ]
        consistency = torch.stack(terms).sum()  # Eq. 10
        losses = {
            "loss": supervised + settings.consistency * consistency,
            "supervised": supervised,
            "consistency": consistency,
        }
        if contrast:
            labels = torch.cat([easy.labels, *(view.reliable for view in views)])
            losses["contrast"] = contrast(tap.features, logits, labels)
            losses["loss"] = losses["loss"] + settings.contrast * losses["contrast"]
        if settings.negative > 0:
            losses["negative"] = negative_pseudo_label_loss(logits_easy, easy.negatives, easy.valid)
            losses["loss"] = losses["loss"] + settings.negative * losses["negative"]
        return losses

    with tap if contrast else nullcontext():
        history = Training(network, settings, images, run, ema=ema, extra=contrast, weights=weights).run(objective)
    return (ema.network if ema and settings.hand_on == "ema" else network), history


def contrast_head(
    make: Callable[[int], nn.Module], network: SegmentationNetwork, images: PairedImages, tap: ClassifierTap, run: Run
) -> nn.Module:
    """Build a mix's contrast module for the number of channels of the classifier's input."""
    run.runtime.place(network)
    example = images.collate([images[0, 0]]).to(run.runtime.device, run.runtime.memory_format)
    with tap:
        channels = tap.probe(network, example.hard.weak).shape[1]
    torch.manual_seed(run.seed)
    return make(channels)


def label_counts(store: PseudoLabelStore, name: str) -> Tensor:
    """Number of positively labelled pixels of each class, int64, (C,)."""
    return torch.bincount(store.positive(name).flatten(), minlength=256)[: len(store.table["classes"])]


def rarity_weights(counts: Sequence[Tensor], balance: float) -> Tensor | None:
    """Sampling weights of images that favour rare classes.

    Args:
        counts: for every image, the labelled pixels of each class, (C,).
        balance: 0 samples uniformly, 1 in proportion to the sum over an image's classes of their share in the image
            divided by their share in all images.

    Returns:
        Relative weights, float64, (images,), mean 1; None for uniform sampling.
    """
    if balance == 0:
        return None
    pixels = torch.stack(list(counts)).double()
    own = pixels / pixels.sum(1, keepdim=True).clamp_min(1)
    overall = pixels.sum(0) / pixels.sum()
    # The clamp avoids 0 / 0 for a class without any labelled pixel.
    rarity = (own / overall.clamp_min(1e-12)).sum(1)
    return 1 - balance + balance * rarity / rarity.mean()
