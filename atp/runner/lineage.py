"""What MLflow shows of a stage besides its curves: the data sets it read, and the model it made, which can be ranked.

A stage's model is a logged model of MLflow without files, since DVC has those. Its parameters are the stage's, and each
of its metrics names the data set on which it was measured, so that ``search_logged_models`` compares the stages.
"""

import csv
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atp.evaluation.evidence.record import FILE as EVIDENCE
from atp.params import Params
from atp.runner.project import dvc_digest
from atp.runs import EVALUATE, HISTORY, METRICS, MODEL, RUNS, models

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Dataset

FINGERPRINT_TAG = "atp.fingerprint"
UNKNOWN = "unknown"
"""The digest of data that DVC does not track."""

READ_BY = {"source": ("source",), "query": ("target", "test"), "evaluate": ("target", "test")}
"""The data sets that a stage reads; those of the adaptation read the target."""

ALL = ("source", "target", "test")
NONE = ("answer", "measure", "register", "report")


def read_by(stage: str) -> tuple[str, ...]:
    """Names of the data sets that a stage reads."""
    name = stage.partition("@")[0]
    return () if name in NONE else READ_BY.get(name, ("target",))


def log_data_sets(client: "MlflowClient", run_id: str, params: Params, names: tuple[str, ...]) -> None:
    """Log data sets as a run's inputs, with the digest by which DVC knows the imported data."""
    from mlflow.entities import DatasetInput, InputTag

    if names:
        data_sets = [(name, _data_set(params, name)) for name in names]
        client.log_inputs(run_id, [DatasetInput(each, [InputTag("mlflow.data.context", n)]) for n, each in data_sets])


def _data_set(params: Params, name: str) -> "Dataset":
    from mlflow.entities import Dataset

    data = params.data
    path = {"source": data.source.root, "target": data.target.images, "test": data.test.images}[name]
    # Linked images are not part of what DVC has imported.
    known = dvc_digest(data.root) if path.is_relative_to(data.root) else ""
    return Dataset(name, known or UNKNOWN, "local", json.dumps({"uri": str(path)}))


def log_result(
    client: "MlflowClient", experiment_id: str, run_id: str, stage: str, params: dict[str, str], all_params: Params
) -> None:
    """Log the model that a stage has written, or the mIoU that ``evaluate`` has measured of each stage's model.

    Args:
        stage: as in DVC, ``teach@r01``.
        params: the stage's parameters, by dotted names.
    """
    from mlflow.entities import LoggedModelInput, LoggedModelOutput

    name, _, key = stage.partition("@")
    folder = RUNS / name / key
    if (folder / MODEL).is_file():
        model_id = _find_or_create(client, experiment_id, folder, stage, params, run_id)
        client.log_outputs(run_id, [LoggedModelOutput(model_id, 0)])
        trained_on = "source" if stage == "source" else "target"
        _log_metrics(client, run_id, {model_id: _own_figures(folder)}, _data_set(all_params, trained_on))
    elif folder == EVALUATE and METRICS.is_file():
        miou = json.loads(METRICS.read_text())["miou"]
        made = models(all_params.rounds, black_box=all_params.black_box)
        found = {
            _find_or_create(client, experiment_id, path, "@".join(path.parts[1:])): {"miou": miou[name]}
            for name, path in made.items()
            if miou.get(name) is not None
        }
        client.log_inputs(run_id, models=[LoggedModelInput(model_id) for model_id in found])
        _log_metrics(client, run_id, found, _data_set(all_params, "test"))


def _find_or_create(
    client: "MlflowClient",
    experiment_id: str,
    folder: Path,
    stage: str,
    params: dict[str, str] | None = None,
    run_id: str | None = None,
) -> str:
    """The id of the logged model of the file in a stage's folder, by the fingerprint that the file states."""
    fingerprint = stated_fingerprint(folder / MODEL)
    query = f"tags.`{FINGERPRINT_TAG}` = '{fingerprint}'"
    found = client.search_logged_models([experiment_id], query, max_results=1)
    if found:
        return str(found[0].model_id)
    tags = {FINGERPRINT_TAG: fingerprint, "atp.stage": stage, "atp.folder": str(folder)}
    made = client.create_logged_model(experiment_id, stage, run_id, tags, params, "segmentation")
    client.finalize_logged_model(made.model_id, "READY")
    return str(made.model_id)


def stated_fingerprint(checkpoint: Path) -> str:
    """The fingerprint of the stage that made a checkpoint, from the file's header."""
    with checkpoint.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return str(json.loads(header["__metadata__"]["made_by"])["fingerprint"])


def _own_figures(folder: Path) -> dict[str, float]:
    """The last losses of a training stage, and the evidence of its model."""
    figures: dict[str, float] = {}
    if (folder / HISTORY).is_file():
        rows = list(csv.DictReader((folder / HISTORY).read_text().splitlines()))
        figures |= {name: float(value) for name, value in (rows[-1] if rows else {}).items() if name != "step"}
    if (folder / EVIDENCE).is_file():
        after: dict[str, Any] = json.loads((folder / EVIDENCE).read_text())["after"]
        figures |= {f"evidence_{name}": float(value) for name, value in after.items()}
    return figures


def _log_metrics(
    client: "MlflowClient", run_id: str, figures: dict[str, dict[str, float]], data_set: "Dataset"
) -> None:
    """Log metrics of logged models, by their ids, on a data set."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    metrics = [
        Metric(name, value, now, 0, model_id, data_set.name, data_set.digest, run_id)
        for model_id, each in figures.items()
        for name, value in each.items()
    ]
    client.log_batch(run_id, metrics=metrics)
