"""A run's results in Prefect's UI: metrics, pseudo labels, the picture, and the link to MLflow."""

import base64
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from atp.evaluation.evidence.record import Evidence, read_all
from atp.evaluation.evidence.vanished import warnings
from atp.evaluation.recommendation import read_recommendation
from atp.runner.tracking import tracking_uri
from atp.runs import ANSWERS, METRICS, within
from flows.ui import MLFLOW_UI

if TYPE_CHECKING:
    from mlflow.entities import Run

PICTURE_WIDTH = 1100


def show_results(runs: Path, run: "Run | None") -> None:
    """Create artifacts of the flow's run from the stages' results; a run of only the first stages has fewer.

    Args:
        run: the pipeline's run in MLflow, if anything was logged.
    """
    metrics = _read(within(runs, METRICS))
    if metrics:
        create_table_artifact(miou_table(metrics["miou"]), key="miou", description="mIoU in percent, held-out target")
    tables = {path.parent.name: _read(path) for path in sorted(runs.glob("dump/*/table.json"))}
    tables |= {"split": _read(runs / "split/labels/table.json")}
    tables = {name: table for name, table in tables.items() if table}
    if tables:
        create_table_artifact(label_table(tables), key="pseudo-labels", description="thresholds and coverage per round")
    rounds = sorted(path.name for path in runs.glob("teach/*"))
    evidence = read_all(runs, rounds)
    if evidence:
        table = evidence_table(evidence, warnings(runs, rounds))
        create_table_artifact(table, key="evidence", description="measured without labels")
    if metrics and evidence:
        best = read_recommendation(runs, rounds, black_box=within(runs, ANSWERS).is_dir())
        create_markdown_artifact(f"`{best.folder}`\n\n{best}", key="recommendation", description="the model to use")
    picture = runs / "report/predictions.png"
    if picture.is_file():
        create_markdown_artifact(f"![before and after]({data_uri(picture)})", key="predictions")
    if run:
        create_link_artifact(mlflow_link(run), link_text=f"{run.info.run_name} in MLflow", key="mlflow")


def mlflow_link(run: "Run") -> str:
    """URL of the run for a browser: at the tracking server, or at the server of ``make ui``.

    ``ATP_MLFLOW_UI`` overrides it if the browser needs another address than the stages.
    """
    uri = os.environ.get("ATP_MLFLOW_UI") or tracking_uri()
    server = uri.rstrip("/") if uri.startswith(("http://", "https://")) else MLFLOW_UI
    return f"{server}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"


def miou_table(miou: dict[str, float]) -> list[dict[str, Any]]:
    """One row per model."""
    source = miou.get("source")
    return [
        {"model": name, "mIoU, %": value, "over source": "" if source is None else f"{value - source:+.1f}"}
        for name, value in miou.items()
    ]


def evidence_table(evidence: Mapping[str, Evidence], lost: Mapping[str, str]) -> list[dict[str, Any]]:
    """One row per model, preceded by the source model: the verdict, its reason, and every indicator.

    Args:
        lost: by model, a line about classes that almost vanished.
    """
    first = next(iter(evidence.values()))
    rows: list[dict[str, Any]] = [{"model": "to compare with", "verdict": "", "why": "", **first["source"]}]
    for name, told in evidence.items():
        why = "; ".join(part for part in (told["why"], lost.get(name, "")) if part)
        rows.append({"model": name, "verdict": told["verdict"], "why": why, **told["after"]})
    return rows


def label_table(tables: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per class and one for all: confidence threshold, and the share of labelled pixels."""
    first = next(iter(tables.values()))
    rows: list[dict[str, Any]] = [{"class": "all"}, *({"class": row["name"]} for row in first["classes"])]
    for name, table in tables.items():
        rows[0][f"{name}: kept, %"] = round(100 * table["coverage"], 1)
        for row, entry in zip(rows[1:], table["classes"], strict=True):
            threshold = entry["threshold"]
            row[f"{name}: threshold"] = "never predicted" if threshold is None else round(threshold, 3)
            row[f"{name}: kept, %"] = round(100 * entry["coverage"], 1)
    return rows


def data_uri(picture: Path) -> str:
    """A picture as data URI, reduced for Prefect's database."""
    with Image.open(picture) as image:
        small = image.convert("RGB")
    small.thumbnail((PICTURE_WIDTH, PICTURE_WIDTH))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None
