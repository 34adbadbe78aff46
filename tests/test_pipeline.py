"""The whole pipeline as its users run it: `dvc repro` in a clone, on tiny data."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
TINY = {
    "training": {"precision": "fp32"},
    "runtime": {"threads": 2, "workers": 0},
    "source": {"epochs": 2, "batch_size": 4},
    "align": {"epochs": 1, "batch_size": 4},
    "teach": {"epochs": 1, "batch_size": 4},
    "propagate": {"epochs": 1, "batch_size": 2},
    "dump": {"scales": [1.0]},
    "rounds": {"r02": {"model": "runs/teach/r01"}},
    "split": {"model": "runs/teach/r02"},
}


def dvc(clone: Path, *arguments: str) -> str:
    # The environment of this interpreter, activated or not.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "MLFLOW_TRACKING_URI": f"sqlite:///{clone}/mlflow.db"}
    done = subprocess.run(
        [str(Path(sys.executable).parent / "dvc"), *arguments],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's tracked files, few of its images, and parameters for seconds instead of minutes; reproduced."""
    clone = tmp_path_factory.mktemp("clone")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in tracked.decode().split("\0"):
        source = ROOT / name
        # The first ten images of each split stand for all.
        if not source.is_file() or (
            name.startswith("assets/streets/") and source.stem.isdigit() and int(source.stem) > 9
        ):
            continue
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, clone / name)
    (clone / "dvc.lock").unlink(missing_ok=True)
    subprocess.run(["git", "init", "-q"], cwd=clone, check=True)
    yaml = YAML()
    params = yaml.load(clone / "params.yaml")
    for section, changes in TINY.items():
        params[section].update(changes)
    yaml.dump(params, clone / "params.yaml")
    # The embedded data are another folder now than the one that data.dvc knows.
    dvc(clone, "update", "data.dvc")
    dvc(clone, "repro")
    return clone


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
