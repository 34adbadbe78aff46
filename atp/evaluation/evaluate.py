"""Comparison of predictions with labels, for models, black boxes and pseudo labels."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from atp.black_box.answers import AnswerStore
from atp.data.folder import Sample
from atp.data.labels import IGNORE, LabelSpace
from atp.data.masks import write_mask
from atp.data.passes import ahead, threads
from atp.data.prepared import UNPREPARED, Prepared
from atp.data.tensors import read_label
from atp.evaluation.metrics import ConfusionMatrix
from atp.losses.entropy import mean_entropy
from atp.models.network import SegmentationNetwork
from atp.pseudo_labels.store import PseudoLabelStore
from atp.training.prediction import Predictor, at_size, chunks, pass_over
from atp.training.progress import Progress
from atp.training.runtime import Runtime


@dataclass
class Evaluation:
    """Results of one model on the test images.

    Attributes:
        confusion: confusion matrix over all labelled pixels.
        miou: mIoU of each image over the classes in its labels, in percent; empty without labels.
        entropy: mean normalised entropy of each image, in [0, 1].
    """

    confusion: ConfusionMatrix
    miou: dict[str, float] = field(default_factory=dict)
    entropy: dict[str, float] = field(default_factory=dict)

    def add(self, one: "Judged") -> None:
        """Count one image."""
        self.entropy[one.name] = one.entropy
        if one.confusion is not None:
            self.confusion.add(one.confusion)
            self.miou[one.name] = 100 * one.confusion.mean_iou()


@dataclass(frozen=True)
class Judged:
    """What an evaluation counts of one image.

    Attributes:
        entropy: mean normalised entropy of its prediction, in [0, 1].
        predicted: class ids at the label's size, or the image's own without a label, uint8, (H, W), on the CPU; 255
            where there is no prediction.
        confusion: of its labelled pixels; None without a label.
    """

    name: str
    entropy: float
    predicted: Tensor
    confusion: ConfusionMatrix | None


def judged(sample: Sample, probabilities: Tensor, entropy: Tensor, answered: Tensor | None = None) -> Judged:
    """Compare an image's prediction with its label, if any, at the label's size.

    Args:
        probabilities: (C, H, W).
        entropy: scalar.
        answered: True where a black box gave a prediction, bool, (H, W); None means everywhere.
    """
    num_classes = len(probabilities)
    labels = read_label(sample.label, num_classes) if sample.label else None
    shape = labels.shape if labels is not None else _shape(sample.image)
    # The same as argmax, which takes several times as long on a CPU.
    predicted = at_size(probabilities, shape).max(0)[1].to("cpu", torch.uint8)
    if answered is not None:
        there = F.interpolate(answered[None, None].float(), tuple(shape))[0, 0] > 0
        predicted = predicted.masked_fill(~there, IGNORE)
    confusion = None
    if labels is not None:
        confusion = ConfusionMatrix(num_classes)
        confusion.update(predicted, labels)
    return Judged(sample.name, float(entropy), predicted, confusion)


def evaluate(
    network: SegmentationNetwork,
    samples: Sequence[Sample],
    size: tuple[int, int] | None,
    runtime: Runtime,
    *,
    window: tuple[int, int] | None = None,
    flip: bool = False,
    predictions: Path | None = None,
    label_space: LabelSpace | None = None,
    prepared: Prepared = UNPREPARED,
    name: str = "evaluate",
) -> Evaluation:
    """Predict every image, and compare with its labels, if any, at their own size.

    Args:
        size: (width, height) to which images are resized for the network; None keeps each image's own.
        window: (width, height) of the windows in which images are predicted; None predicts whole images.
        predictions: folder for the predicted ids, at the labels' size, or at the images' size without labels.
        label_space: colours of the files' palette.
        prepared: images that need not be decoded again.
    """
    result = Evaluation(ConfusionMatrix(network.num_classes))
    predictor = Predictor([(network, 1.0)], runtime, flip=flip, window=window)
    parts, read = chunks(samples, size, predictor.chunk), partial(prepared.image, size=size)

    def predict(images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for own in predictor.probabilities(images):
            yield own, mean_entropy(own[None])[0]

    def finish(sample: Sample, made: tuple[Tensor, Tensor]) -> Judged:
        one = judged(sample, *made)
        if predictions is not None and label_space is not None:
            write_mask(predictions / f"{sample.name}.png", one.predicted.numpy(), label_space)
        return one

    with Progress(name, len(samples)) as progress:
        for one in pass_over(parts, read, runtime, predict, finish):
            result.add(one)
            progress.advance()
    return result


def evaluate_answers(store: AnswerStore, samples: Sequence[Sample], predictions: Path) -> Evaluation:
    """Evaluate a black box by its stored predictions; a missing prediction counts as wrong.

    Args:
        predictions: folder for the predicted ids.
    """
    space = store.label_space
    result = Evaluation(ConfusionMatrix(space.num_classes))
    with Progress("evaluate source", len(samples)) as progress:
        for sample in samples:
            answer = store.answer(sample.name)
            probabilities, answered = answer.dense(space.num_classes), answer.classes[0] != IGNORE
            entropy = mean_entropy(probabilities[None], answered[None])[0]
            one = judged(sample, probabilities, entropy, answered)
            result.add(one)
            write_mask(predictions / f"{sample.name}.png", one.predicted.numpy(), space)
            progress.advance()
    return result


def _shape(path: Path) -> tuple[int, int]:
    with Image.open(path) as file:
        return file.height, file.width


def label_accuracy(
    store: PseudoLabelStore,
    samples: Sequence[Sample],
    size: tuple[int, int] | None,
    label_space: LabelSpace,
    workers: int = 0,
) -> dict[str, Any]:
    """Accuracy of a round's pseudo labels on labelled pixels, in percent.

    Args:
        workers: number of threads; 0 counts in this one.

    Returns:
        ``accuracy`` of the positive labels, ``accuracy_per_class`` by predicted class, ``negative_accuracy``: share of
        the negative labels whose class is absent.
    """
    num_classes = label_space.num_classes

    def counted(sample: Sample) -> tuple[ConfusionMatrix, int, int]:
        """Confusion matrix of an image's positive labels, and its negative labels, those that are wrong and all."""
        assert sample.label is not None
        labels = read_label(sample.label, num_classes, size)
        positives, negatives = store.positive(sample.name), store.negatives(sample.name)
        confusion = ConfusionMatrix(num_classes)
        confusion.update(positives[positives != IGNORE], labels[positives != IGNORE])
        labelled = labels != IGNORE
        # A negative label is wrong if it names the true class.
        wrong = negatives.gather(0, labels.where(labelled, 0).long()[None])[0][labelled].sum()
        return confusion, int(wrong), int((negatives & labelled).sum())

    confusion = ConfusionMatrix(num_classes)
    wrong = total = 0
    with threads(workers) as pool:
        for own, mistaken, negatives in ahead(pool, counted, [s for s in samples if s.label], 2 * workers):
            confusion.add(own)
            wrong, total = wrong + mistaken, total + negatives
    hits, said = confusion.counts.diagonal().double(), confusion.counts.sum(0).double()
    return {
        "accuracy": percent(float(hits.sum() / said.sum())),
        "negative_accuracy": percent(1 - wrong / total) if total else None,
        "accuracy_per_class": {
            name: percent(value) for name, value in zip(label_space.names, (hits / said).tolist(), strict=True)
        },
    }


def percent(share: float) -> float | None:
    """Convert a share in [0, 1] to percent with two decimals; None for NaN, which JSON lacks."""
    return None if math.isnan(share) else round(100 * share, 2)


def per_class(names: Sequence[str], shares: Tensor) -> dict[str, float | None]:
    return {name: percent(value) for name, value in zip(names, shares.tolist(), strict=True)}


def summary(
    results: Mapping[str, Evaluation], space: LabelSpace, protocols: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """Metrics of all models; without labels, only entropies.

    Args:
        protocols: subsets of the class ids by name; the mIoU of each is computed from the same confusion matrix.
    """
    labelled = {name: result for name, result in results.items() if result.miou}
    return {
        "miou": {name: percent(result.confusion.mean_iou()) for name, result in labelled.items()},
        "protocols": {
            protocol: {name: percent(result.confusion.mean_iou(ids)) for name, result in labelled.items()}
            for protocol, ids in protocols.items()
        },
        "iou": {name: per_class(space.names, result.confusion.iou()) for name, result in labelled.items()},
        "entropy": {
            name: round(sum(result.entropy.values()) / len(result.entropy), 4) for name, result in results.items()
        },
    }
