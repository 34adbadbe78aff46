"""Stage ``measure`` of paper/dvc.yaml: evaluate one model on the test images, for a cell of a table.

Does for the model of ``--model`` what ``evaluate`` does for all models, with the same functions. Writes, below
``runs/measure``:

- ``metrics.json``: mIoU and IoU per class in percent, mIoU per protocol in ``data.protocols``, mean entropy,
  floating-point precision, and the evidence without labels from the stage that trained the model.
- ``predictions/<name>.png``: class ids of a few evenly spread test images, as palette PNG.
"""

import argparse
import json
import sys
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

from atp.data.folder import check_sizes, evenly_spread, list_samples
from atp.errors import InputError
from atp.evaluation.evaluate import evaluate, summary
from atp.evaluation.evidence.record import FILE
from atp.params import Params
from atp.runner.stage import Stage, run_stage, write_json

ALONE = True

SHOWN = 8
"""Number of test images with predictions to keep."""


def inputs(model: Path, params: Params, key: str | None) -> list[Path]:
    test = params.data.test
    return [model, test.images, *([test.labels] if test.labels else [])]


def body(model: Path, stage: Stage) -> None:
    data, runtime = stage.params.data, stage.runtime
    if not runtime.is_main:
        return
    if data.test.labels is None:
        raise InputError("params.yaml: data.test.labels: null; a table needs the labels of the test images")
    samples = list_samples(data.test.images, data.test.labels)
    check_sizes(samples)
    shown = {sample.name for sample in evenly_spread(samples, SHOWN)}
    network, checkpoint = stage.load(model)
    space = checkpoint.label_space
    with stage.output() as folder:
        predictions = folder / "predictions"
        result = evaluate(
            network,
            samples,
            data.size,
            runtime,
            window=data.window,
            flip=stage.params.evaluate.flip,
            predictions=predictions,
            label_space=space,
            prepared=stage.images(samples).prepared,
            name=stage.label,
        )
        keep(predictions, shown)
        metrics = flat(summary({"model": result}, space, data.protocol_ids()))
        metrics["precision"] = runtime.precision
        evidence = model / FILE
        metrics["evidence"] = json.loads(evidence.read_text()) if evidence.is_file() else None
        write_json(folder / "metrics.json", metrics)
    stage.tracker.log(0, {"miou": metrics["miou"]})


def keep(predictions: Path, names: Collection[str]) -> None:
    """Delete the PNGs of all other images; names may contain folders, such as Cityscapes' cities."""
    for path in sorted(predictions.rglob("*.png")):
        if path.relative_to(predictions).with_suffix("").as_posix() not in names:
            path.unlink()


def flat(figures: dict[str, Any]) -> dict[str, Any]:
    """A summary of one model without its name."""
    protocols = {name: values["model"] for name, values in figures["protocols"].items()}
    return {**{name: figures[name]["model"] for name in ("miou", "iou", "entropy")}, "protocols": protocols}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m atp.stages measure", add_help=False)
    parser.add_argument("--model", type=Path, required=True, help="folder of the model")
    arguments, sys.argv[1:] = parser.parse_known_args()
    run_stage("measure", partial(body, arguments.model), partial(inputs, arguments.model), sealed=False)


if __name__ == "__main__":
    main()
