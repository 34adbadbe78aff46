"""Class-balanced pseudo labels from a network's state at the start of a round (CBST)."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from atp.data.loading import Batch, TrainingImages
from atp.losses.pixels import NO_LABEL, mean_where
from atp.losses.supervised import pixel_cross_entropy
from atp.models.network import SegmentationNetwork
from atp.pseudo_labels.thresholds import ConfidenceHistogram, confidence_codes, least_confidence
from atp.training.loop import History
from atp.training.prediction import Predictor, chunks, read_chunks
from atp.training.progress import Progress
from atp.training.run import Record, Run
from atp.training.runtime import Runtime


class ClassBalancedLabeller:
    """Labels batches with a copy of the network, which later training does not change.

    Zou et al., Unsupervised Domain Adaptation for Semantic Segmentation via Class-Balanced Self-Training (2018). Ours:
    each batch is labelled when it is drawn, where the published code writes all labels first.

    Attributes:
        thresholds: exp(-k_c) of each class, a confidence, float32, (C,), > 0; infinite for a class that was never
            predicted.
    """

    def __init__(self, network: SegmentationNetwork, images: TrainingImages, portion: float, job: Run) -> None:
        """Find the thresholds reached by ``portion`` of each class's pixels, in one pass over the images."""
        job.runtime.place(network)
        self._network = copy.deepcopy(network).eval().requires_grad_(False)
        job.runtime.share_buffers(self._network)
        histogram = _confidences(self._network, images, job.runtime, f"{job.name} labels")
        never = histogram.counts.shape[1]
        codes = [int(code) for code in histogram.thresholds(portion)]
        self.thresholds = torch.tensor(
            [np.inf if code == never else least_confidence(code) for code in codes], device=job.runtime.device
        )

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        """Labels of the images without colour augmentation, (N, H, W), int64, 255 = none."""
        probabilities = self._network(batch.weak).float().softmax(1)
        return class_balanced_labels(probabilities, self.thresholds, batch.valid)


def _confidences(
    network: SegmentationNetwork, images: TrainingImages, runtime: Runtime, name: str
) -> ConfidenceHistogram:
    """Confidences of all images, computed in parallel by the processes."""
    histogram = ConfidenceHistogram(network.num_classes)
    predictor = Predictor([(network, 1.0)], runtime)
    mine = chunks(images.samples, images.size)[runtime.rank :: runtime.world_size]
    with Progress(name, sum(map(len, mine)), enabled=runtime.is_main) as progress:
        for part, pixels in read_chunks(mine, images.pixels, runtime):
            confidences, classes = predictor.probabilities(pixels).max(1)
            codes = confidence_codes(confidences)
            histogram.update(classes.to("cpu", torch.uint8).numpy(), codes.cpu().numpy())
            progress.advance(len(part))
    counts = torch.from_numpy(histogram.counts).to(runtime.device)
    histogram.counts = runtime.sum(counts).cpu().numpy()
    return histogram


def in_rounds(job: Run, rounds: int, train: Callable[[int, Run], History]) -> History:
    """Train in rounds, each with its own seed and training state.

    A finished round is not trained again on resume, since its final state is kept until the stage ends.

    Args:
        train: maps a round's number, from 0, and its run to its history.

    Returns:
        The concatenated histories; steps, also in the run's records, continue from round to round.
    """
    whole: History = {}
    for number in range(rounds):
        begun = int(whole["step"][-1]) if whole else 0
        record = _counted_on(job.record, begun) if job.record else None
        history = train(number, job.part(number, record))
        for name, values in history.items():
            whole.setdefault(name, []).extend(value + begun if name == "step" else value for value in values)
    return whole


def _counted_on(record: Record, begun: int) -> Record:
    return lambda step, means: record(begun + step, means)


def class_balanced_labels(probabilities: Tensor, thresholds: Tensor, valid: Tensor) -> Tensor:
    """The labels that minimise ``class_balanced_loss``.

    Args:
        probabilities: predictions, (N, C, H, W), any float dtype.
        thresholds: exp(-k_c) of each class, (C,), > 0: the confidence reached by a given portion of the pixels
            predicted as that class; infinite for a class without labels.
        valid: False at padding, (N, H, W), bool.

    Returns:
        Class ids, 255 = none, (N, H, W), int64: the class with the highest ratio of probability to threshold, if the
        ratio is at least 1.

    Unlike in Eq. 4, a pixel with low confidence in a frequent class can be labelled as a rare class. Ours: at least 1,
    where the paper requires more than 1, since a threshold that saturates at 1 would select nothing.
    """
    multiple, labels = (probabilities / thresholds[:, None, None].to(probabilities.dtype)).max(1)
    return labels.masked_fill(~valid | (multiple < 1), NO_LABEL)


def class_balanced_loss(logits: Tensor, labels: Tensor, thresholds: Tensor, valid: Tensor) -> Tensor:
    """Cross-entropy with pseudo labels relative to their classes' thresholds.

    Args:
        logits: (N, C, H, W), any float dtype; computed in at least float32.
        labels: class ids below C, 255 = none, (N, H, W), int64.
        thresholds: see ``class_balanced_labels``; finite for every labelled class.
        valid: False at padding, (N, H, W), bool; labels there are ignored.

    Returns:
        Scalar, -log(p / threshold) of the labelled pixels, nats per valid pixel: negative if their probabilities exceed
        the thresholds, 0 if no pixel is labelled or valid.

    With fixed labels, the thresholds are constants, and the gradient is that of Eq. 5. Ours: without the source
    domain's cross-entropy, since source data is not available; mean over valid pixels where the paper sums.
    """
    loss = pixel_cross_entropy(logits, labels)
    labelled = labels != NO_LABEL
    of_label = thresholds.to(loss.dtype).log()[labels.where(labelled, 0)]
    return mean_where(loss + of_label.where(labelled, 0), valid)
