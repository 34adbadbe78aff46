"""Stage ``evaluate``: every stage's model on the held-out target images, and every round's labels against the truth.

For a black box, its answers to the test images, if queried, take the source model's place. This is the only stage that
may read the target's labels. Writes, below ``runs/evaluate``:

- ``metrics.json``: per model, mIoU and IoU per class in percent, and mIoU per protocol in ``data.protocols``; mIoU on
  the validation images, if they have labels; per round, coverage and accuracy of the labels; the models'
  floating-point precision.
- ``images.json``: mIoU (percent, over the classes present; null without any) and mean entropy per test image and model.
- ``confusion.json``: confusion matrix per model, rows true classes, columns predicted ones.
- ``predictions/<model>/<name>.png``: class ids as palette PNG.
"""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atp.black_box.answers import AnswerStore
from atp.data.folder import Sample, check_sizes, list_samples
from atp.data.labels import LabelSpace
from atp.evaluation.evaluate import Evaluation, evaluate, evaluate_answers, label_accuracy, summary
from atp.models.network import SegmentationNetwork
from atp.params import Params
from atp.pseudo_labels.store import PseudoLabelStore
from atp.runner.stage import Stage, run_stage, write_json
from atp.runs import ANSWERS_ON_TEST, BATCHNORM_ONLY, METRICS, SOURCE, SPLIT, SPLIT_LABELS, dumped, models
from atp.training.normalisation import has_batchnorm
from atp.training.prediction import reestimate_batchnorm

ALONE = True

logger = logging.getLogger(__name__)


def inputs(params: Params, key: str | None) -> list[Path]:
    dumps = [dumped(key) for key in params.rounds]
    box = [ANSWERS_ON_TEST] if ANSWERS_ON_TEST.is_dir() else []
    return [*models(params.rounds, black_box=params.black_box).values(), *dumps, SPLIT, *box, params.data.root]


def body(stage: Stage) -> None:
    params, runtime, data = stage.params, stage.runtime, stage.params.data
    if not runtime.is_main:
        return
    protocols = data.protocol_ids()
    samples = list_samples(data.test.images, data.test.labels, optional=True)
    check_sizes(samples)
    validation = labelled_validation(params)
    with stage.output() as folder:
        results: dict[str, Evaluation] = {}
        held_out: dict[str, Evaluation] = {}
        space: LabelSpace | None = None

        def add(name: str, network: SegmentationNetwork, predictions: Path | None = None) -> None:
            results[name] = measured(stage, network, samples, name, predictions, space)
            if validation:
                held_out[name] = measured(stage, network, validation, f"{name}, validation images")

        if params.black_box and ANSWERS_ON_TEST.is_dir():
            results["source"] = evaluate_answers(AnswerStore(ANSWERS_ON_TEST), samples, folder / "predictions/source")
        for name, path in models(params.rounds, black_box=params.black_box).items():
            network, checkpoint = stage.load(path)
            space = checkpoint.label_space
            add(name, network, folder / "predictions" / name)
        assert space is not None, "there is always a model"
        if params.evaluate.batchnorm_only and not params.black_box:
            network, _ = stage.load(SOURCE)
            if has_batchnorm(network):
                target = stage.target()
                reestimate_batchnorm(network, target.samples, data.size, runtime, data.window, target.prepared)
                add(BATCHNORM_ONLY, network)
            else:
                logger.info("evaluate: the network has no BatchNorm, so nothing is gained by BatchNorm alone")
        metrics = summary(results, space, protocols)
        if held_out:
            metrics["validation"] = {"miou": summary(held_out, space, {})["miou"]}
        metrics["pseudo_labels"] = rounds_summary(params, space, runtime.workers)
        metrics["precision"] = runtime.precision
        write_json(folder / METRICS.name, metrics)
        write_json(folder / "images.json", {n: by_image(result) for n, result in results.items()})
        write_json(folder / "confusion.json", {n: r.confusion.counts.tolist() for n, r in results.items()})
    stage.tracker.log(0, {f"miou_{name}": value for name, value in metrics["miou"].items()})
    validation_miou = metrics.get("validation", {"miou": {}})["miou"]
    for protocol, values in {**metrics["protocols"], "validation": validation_miou}.items():
        figures = {f"miou_{protocol}_{name}": value for name, value in values.items() if value is not None}
        stage.tracker.log(0, figures)


def by_image(result: Evaluation) -> dict[str, dict[str, float | None]]:
    """Figures of each image; null is the mIoU of one without a labelled pixel."""
    miou = {name: value if math.isfinite(value) else None for name, value in result.miou.items()}
    return {"miou": miou, "entropy": dict(result.entropy)}


def measured(
    stage: Stage,
    network: SegmentationNetwork,
    samples: Sequence[Sample],
    name: str,
    predictions: Path | None = None,
    space: LabelSpace | None = None,
) -> Evaluation:
    """Evaluate a model as the parameters say, and write its predictions if a folder and the classes are given."""
    data, flip = stage.params.data, stage.params.evaluate.flip
    return evaluate(
        network,
        samples,
        data.size,
        stage.runtime,
        window=data.window,
        flip=flip,
        predictions=predictions,
        label_space=space,
        prepared=stage.images(samples).prepared,
        name=f"evaluate {name}",
    )


def labelled_validation(params: Params) -> list[Sample]:
    """The validation images with labels; empty if there are none."""
    held_out = params.data.validation
    if held_out is None or held_out.labels is None or not held_out.images.is_dir():
        return []
    samples = list_samples(held_out.images, held_out.labels, optional=True)
    check_sizes(samples)
    return [sample for sample in samples if sample.label]


def rounds_summary(params: Params, space: LabelSpace, workers: int) -> dict[str, Any]:
    """Coverage of each round's labels, and their accuracy if the target has labels."""
    data = params.data
    folders = {key: dumped(key) for key in params.rounds} | {"split": SPLIT_LABELS}
    samples = list_samples(data.target.images, data.target.labels, optional=True) if data.target.labels else []
    result: dict[str, Any] = {}
    for key, folder in folders.items():
        store = PseudoLabelStore(folder)
        result[key] = {"coverage": store.table["coverage"]}
        if samples:
            result[key] |= label_accuracy(store, samples, data.size, space, workers)
    return result


def main() -> None:
    run_stage("evaluate", body, inputs, sealed=False)


if __name__ == "__main__":
    main()
