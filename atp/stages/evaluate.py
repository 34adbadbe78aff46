"""Stage ``evaluate``: every stage's model on the held-out target images, and every round's labels against the truth.

Of a black box there is no source model; its answers about the test images, if it was asked, stand for it.

The only stage that may read the target's labels. Writes, below ``runs/evaluate``:

- ``metrics.json``: mIoU and IoU per class in percent, per model, and mIoU per protocol in ``data.protocols``; per round
  coverage and accuracy of the labels; the precision that the models computed in.
- ``images.json``: per test image mIoU (percent, over the classes it shows) and mean entropy, per model.
- ``confusion.json``: confusion matrix per model, rows true classes, columns predicted ones.
- ``predictions/<model>/<name>.png``: class ids as palette PNG.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from atp.black_box.answers import AnswerStore
from atp.config import Params
from atp.data.folder import Sample, check_sizes, list_samples
from atp.data.labels import IGNORE, LabelSpace
from atp.data.masks import write_mask
from atp.data.tensors import read_label
from atp.losses.entropy import mean_entropy
from atp.models.network import SegmentationNetwork
from atp.pseudo_labels.store import PseudoLabelStore
from atp.stages.process import BOX_ON_TEST
from atp.stages.stage import Stage, run_stage, write_json
from atp.training.metrics import ConfusionMatrix
from atp.training.prediction import Predictor, chunks, read_chunks, reestimate_batchnorm
from atp.training.progress import Progress
from atp.training.runtime import Runtime

logger = logging.getLogger(__name__)


@dataclass
class Evaluation:
    """What one model does on the test images.

    Attributes:
        confusion: over all labelled pixels.
        miou: per image, percent over the classes that it shows; empty without labels.
        entropy: per image, normalised, in [0, 1].
    """

    confusion: ConfusionMatrix
    miou: dict[str, float] = field(default_factory=dict)
    entropy: dict[str, float] = field(default_factory=dict)

    def add(self, sample: Sample, probabilities: Tensor, answered: Tensor | None = None) -> Tensor:
        """Count one image, at its label's size, or at its own where there is none.

        Args:
            probabilities: of all classes, (C, H, W).
            answered: where there are any, bool, (H, W); None is everywhere.

        Returns:
            Predicted ids at that size, uint8 on the CPU, 255 where there is no answer.
        """
        num_classes = len(probabilities)
        valid = None if answered is None else answered[None]
        self.entropy[sample.name] = float(mean_entropy(probabilities[None], valid)[0])
        labels = read_label(sample.label, num_classes) if sample.label else None
        shape = labels.shape if labels is not None else _shape(sample.image)
        predicted = _resized(probabilities, shape).argmax(0).to("cpu", torch.uint8)
        if answered is not None:
            there = F.interpolate(answered[None, None].float(), tuple(shape))[0, 0] > 0
            predicted = predicted.masked_fill(~there, IGNORE)
        if labels is not None:
            mine = ConfusionMatrix(num_classes)
            mine.update(predicted, labels)
            self.confusion.add(mine)
            self.miou[sample.name] = 100 * mine.mean_iou()
        return predicted


def evaluate(
    network: SegmentationNetwork,
    samples: Sequence[Sample],
    size: tuple[int, int] | None,
    runtime: Runtime,
    *,
    flip: bool = False,
    predictions: Path | None = None,
    label_space: LabelSpace | None = None,
    name: str = "evaluate",
) -> Evaluation:
    """Predict every image, and compare with its labels at their own size where there are any.

    Args:
        predictions: folder for the predicted ids, at the labels' size, or the images' where there are no labels.
        label_space: colours of those files' palette.
    """
    result = Evaluation(ConfusionMatrix(network.num_classes))
    predictor = Predictor([(network, 1.0)], runtime, flip=flip)
    parts = chunks(samples, size)
    with Progress(name, len(samples)) as progress:
        for part, images in read_chunks(parts, size):
            probabilities = predictor.probabilities(images)
            for sample, own in zip(part, probabilities, strict=True):
                predicted = result.add(sample, own)
                if predictions is not None and label_space is not None:
                    write_mask(predictions / f"{sample.name}.png", predicted, label_space)
                progress.advance()
    return result


def evaluate_answers(store: AnswerStore, samples: Sequence[Sample], predictions: Path) -> Evaluation:
    """The same of a black box that answered about these images; no answer is a wrong one.

    Args:
        predictions: folder for the predicted ids.
    """
    space = store.label_space
    result = Evaluation(ConfusionMatrix(space.num_classes))
    with Progress("evaluate source", len(samples)) as progress:
        for sample in samples:
            answer = store.answer(sample.name)
            predicted = result.add(sample, answer.dense(space.num_classes), answer.classes[0] != IGNORE)
            write_mask(predictions / f"{sample.name}.png", predicted, space)
            progress.advance()
    return result


def _shape(path: Path) -> tuple[int, int]:
    with Image.open(path) as file:
        return file.height, file.width


def _resized(probabilities: Tensor, shape: Sequence[int]) -> Tensor:
    if tuple(probabilities.shape[-2:]) == tuple(shape):
        return probabilities
    return F.interpolate(probabilities[None], tuple(shape), mode="bilinear")[0]


def label_accuracy(
    store: PseudoLabelStore, samples: Sequence[Sample], size: tuple[int, int] | None, label_space: LabelSpace
) -> dict[str, Any]:
    """How right a round's pseudo labels are, in percent of those pixels that have a true label.

    Returns:
        ``accuracy`` of the positive labels, ``accuracy_per_class`` by predicted class, ``negative_accuracy``: share of
        the negative labels whose class is indeed absent.
    """
    confusion = ConfusionMatrix(label_space.num_classes)
    wrong = total = 0
    for sample in samples:
        if sample.label is None:
            continue
        labels = read_label(sample.label, label_space.num_classes, size)
        positives, negatives = store.positive(sample.name), store.negatives(sample.name)
        confusion.update(positives[positives != IGNORE], labels[positives != IGNORE])
        labelled = labels != IGNORE
        total += int((negatives & labelled).sum())
        # A negative label is wrong where it names the true class.
        wrong += int(negatives.gather(0, labels.where(labelled, 0).long()[None])[0][labelled].sum())
    hits, said = confusion.counts.diagonal().double(), confusion.counts.sum(0).double()
    return {
        "accuracy": percent(float(hits.sum() / said.sum())),
        "negative_accuracy": percent(1 - wrong / total) if total else None,
        "accuracy_per_class": {
            name: percent(value) for name, value in zip(label_space.names, (hits / said).tolist(), strict=True)
        },
    }


def percent(share: float) -> float | None:
    """Share in [0, 1] to percent with two decimals; JSON knows no NaN."""
    return None if math.isnan(share) else round(100 * share, 2)


def per_class(names: Sequence[str], shares: Tensor) -> dict[str, float | None]:
    return {name: percent(value) for name, value in zip(names, shares.tolist(), strict=True)}


def models(params: Params) -> dict[str, Path]:
    """The stages whose models are compared, in the pipeline's order, and where they lie."""
    rounds = {f"teach_{key}": Path("runs/teach") / key for key in params.rounds}
    *earlier, last = rounds.items()
    first = {"distill": Path("runs/distill")}
    return {
        **(first if params.black_box else {"source": Path("runs/source"), "align": Path("runs/align")}),
        **dict(earlier),
        "teach": last[1],
        "propagate": Path("runs/propagate"),
    }


def inputs(params: Params, key: str | None) -> list[Path]:
    dumps = [Path("runs/dump") / key for key in params.rounds]
    box = [BOX_ON_TEST] if BOX_ON_TEST.is_dir() else []
    return [*models(params).values(), *dumps, Path("runs/split"), *box, params.data.root]


def body(stage: Stage) -> None:
    params, runtime, data = stage.params, stage.runtime, stage.params.data
    if not runtime.is_main:
        return
    protocols = data.protocol_ids()
    samples = list_samples(data.test.images, data.test.labels, optional=True)
    check_sizes(samples)
    with stage.output() as folder:
        results: dict[str, Evaluation] = {}
        space: LabelSpace | None = None
        if params.black_box and BOX_ON_TEST.is_dir():
            results["source"] = evaluate_answers(AnswerStore(BOX_ON_TEST), samples, folder / "predictions/source")
        for name, path in models(params).items():
            network, checkpoint = stage.load(path)
            space = checkpoint.label_space
            results[name] = evaluate(
                network,
                samples,
                data.size,
                runtime,
                flip=params.evaluate.flip,
                predictions=folder / "predictions" / name,
                label_space=space,
                name=f"evaluate {name}",
            )
        assert space is not None, "there is always a model"
        if params.evaluate.batchnorm_only and not params.black_box:
            network, _ = stage.load(Path("runs/source"))
            reestimate_batchnorm(network, list_samples(data.target.images), data.size, runtime)
            results["batchnorm_only"] = evaluate(network, samples, data.size, runtime, flip=params.evaluate.flip)
        metrics = summary(results, space, protocols)
        metrics["pseudo_labels"] = rounds_summary(params, space)
        metrics["precision"] = runtime.precision
        write_json(folder / "metrics.json", metrics)
        write_json(folder / "images.json", {n: {"miou": r.miou, "entropy": r.entropy} for n, r in results.items()})
        write_json(folder / "confusion.json", {n: r.confusion.counts.tolist() for n, r in results.items()})
    stage.tracker.log(0, {f"miou_{name}": value for name, value in metrics["miou"].items()})
    for protocol, values in metrics["protocols"].items():
        figures = {f"miou_{protocol}_{name}": value for name, value in values.items() if value is not None}
        stage.tracker.log(0, figures)


def summary(
    results: Mapping[str, Evaluation], space: LabelSpace, protocols: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """The figures of all models; without labels only entropies.

    Args:
        protocols: class ids by name, each with a mean of its own from the same confusion matrix.
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


def rounds_summary(params: Params, space: LabelSpace) -> dict[str, Any]:
    """Coverage of every round's labels, and their accuracy where the target has labels."""
    data = params.data
    folders = {key: Path("runs/dump") / key for key in params.rounds} | {"split": Path("runs/split/labels")}
    samples = list_samples(data.target.images, data.target.labels, optional=True) if data.target.labels else []
    result: dict[str, Any] = {}
    for key, folder in folders.items():
        store = PseudoLabelStore(folder)
        result[key] = {"coverage": store.table["coverage"]}
        if samples:
            result[key] |= label_accuracy(store, samples, data.size, space)
    return result


def main() -> None:
    run_stage("evaluate", body, inputs, sealed=False)


if __name__ == "__main__":
    main()
