"""The whole pipeline as its users run it: `dvc repro` in a clone, on tiny data."""

import json
import os
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient
from ruamel.yaml import YAML

from tests import warm
from tests.clone import dvc


@pytest.fixture(scope="module")
def clone(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the reproduced clone that tests here may change."""
    return Path(shutil.copytree(reproduced, tmp_path_factory.mktemp("pipeline") / "clone", symlinks=True))


def test_every_stage_leaves_its_result(clone: Path) -> None:
    for path in (
        "source/model.safetensors",
        "align/model.safetensors",
        "dump/r01/table.json",
        "teach/r02/model.safetensors",
        "split/ranking.json",
        "propagate/model.safetensors",
        "evaluate/metrics.json",
        "report/index.html",
        "register/version.json",
    ):
        assert (clone / "runs" / path).is_file(), path
    assert not (clone / "black_box/runs").exists(), "a plain dvc repro is of this pipeline alone"


def test_figures_are_as_promised(clone: Path) -> None:
    metrics = json.loads((clone / "runs/evaluate/metrics.json").read_text())
    assert {"source", "align", "teach", "propagate", "batchnorm_only"} <= set(metrics["miou"])
    assert "road" in metrics["iou"]["propagate"]


def test_a_second_run_changes_nothing(clone: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (clone / "runs").rglob("*.safetensors")}
    output = dvc(clone, "repro")
    assert "Stage 'propagate' didn't change, skipping" in output
    assert {path: path.stat().st_mtime_ns for path in (clone / "runs").rglob("*.safetensors")} == before


def test_only_what_depends_on_a_parameter_runs_again(clone: Path) -> None:
    yaml = YAML()
    params = yaml.load(clone / "params.yaml")
    params["propagate"]["lr"] = 0.005
    params["runtime"]["save_every_s"] = 17
    yaml.dump(params, clone / "params.yaml")
    status = dvc(clone, "status", "--json")
    changed = {name for name, reasons in json.loads(status).items() if reasons != ["always changed"]}
    assert "propagate" in changed
    assert not changed & {"source", "align", "dump@r01", "teach@r01", "split"}


def test_the_run_is_ranked_without_labels(reproduced: Path) -> None:
    done = warm.run(["-m", "atp.cli", "select", "--json"], reproduced, dict(os.environ))
    assert done.returncode == 0, done.stderr
    choice = json.loads(done.stdout)
    assert [(row["name"], row["rank"]) for row in choice["runs"]] == [("workspace", 1)]
    metrics = json.loads((reproduced / "runs/evaluate/metrics.json").read_text())
    assert choice["oracle"]["runs"][0]["miou"] == metrics["miou"]["propagate"]


# MLflow's own use of SQLAlchemy.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_results_are_tracked_and_registered_once(clone: Path) -> None:
    client = MlflowClient(f"sqlite:///{clone}/mlflow.db")
    experiment = client.get_experiment_by_name("atp")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    stages = {run.data.tags.get("atp.stage") for run in runs}
    assert {"source", "align", "dump@r01", "teach@r02", "propagate", "evaluate"} <= stages
    (version,) = client.search_model_versions("name = 'atp'")
    assert client.get_model_version_by_alias("atp", "candidate").version == version.version
