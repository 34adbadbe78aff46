"""Stage ``register``: once per model, with the alias, and quickly when there is nothing to do."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from atp.config import load_params
from atp.registry.origin import identify
from atp.stages.register import described, register_with_mlflow

# Runs the stage and tells which of the slow libraries it imported.
LEAN = """
import runpy, sys
sys.argv = ["register"]
runpy.run_module("atp.stages.register", run_name="__main__")
print([name for name in ("torch", "mlflow", "sqlalchemy", "numpy") if name in sys.modules])
"""


@pytest.fixture
def copy(registered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The three projects and their database, to be changed; ``first`` is the working folder."""
    root = Path(shutil.copytree(registered, tmp_path / "copy"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
    monkeypatch.chdir(root / "first")
    return root


@pytest.fixture
def client(copy: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{copy}/mlflow.db")


def run_lean() -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", LEAN], capture_output=True, text=True, check=False)


def version_of(project: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((project / "runs/register/version.json").read_text())
    return found


def test_three_at_once_make_two_versions(registered: Path) -> None:
    """All on a new database; the first and its twin have the same model, data and parameters."""
    first, twin, second = (version_of(registered / name) for name in ("first", "twin", "second"))
    assert first == twin
    assert {first["version"], second["version"]} == {"1", "2"}
    client = MlflowClient(f"sqlite:///{registered}/mlflow.db")
    assert len(client.search_model_versions("name = 'atp'")) == 2
    for told in (first, second):
        version = client.get_model_version("atp", told["version"])
        assert version.tags == told["tags"]
        assert version.run_id == told["run_id"]


def test_the_pipelines_run_has_the_model_and_what_sums_it_up(registered: Path) -> None:
    client = MlflowClient(f"sqlite:///{registered}/mlflow.db")
    parent = client.get_run(version_of(registered / "first")["run_id"])
    assert parent.data.metrics == {"miou_source": 40.5, "miou_propagate": 50.25}
    assert parent.info.status == "FINISHED"
    assert len(parent.outputs.model_outputs) == 1
    model = client.get_logged_model(parent.outputs.model_outputs[0].model_id)
    assert model.params["align.epochs"] == "4"
    assert {metric.key for metric in model.metrics} == {"miou_source", "miou_propagate"}
    query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    (child,) = client.search_runs([parent.info.experiment_id], query)
    assert (child.data.tags["atp.stage"], child.info.status) == ("register", "FINISHED")
    assert [file.path for file in client.list_artifacts(child.info.run_id)] == ["metrics.json"]


def test_again_nothing_is_new_and_nothing_slow_is_imported(copy: Path, client: MlflowClient) -> None:
    client.set_registered_model_alias("atp", "candidate", version_of(copy / "first")["version"])
    before = (copy / "first/runs/register/version.json").read_bytes()
    shutil.rmtree(copy / "first/runs/register")
    done = run_lean()
    assert done.returncode == 0, done.stderr
    assert "(candidate) holds this model already; nothing new" in done.stderr
    assert done.stdout.strip() == "[]"
    assert (copy / "first/runs/register/version.json").read_bytes() == before
    assert not list((copy / "first/runs").glob(".*"))


def test_the_alias_comes_back_without_a_new_version(copy: Path, client: MlflowClient) -> None:
    first, second = version_of(copy / "first"), version_of(copy / "second")
    client.set_registered_model_alias("atp", "candidate", second["version"])
    params = load_params()
    version = register_with_mlflow(params, identify(params))
    assert described(version, "candidate") == first
    assert str(client.get_model_version_by_alias("atp", "candidate").version) == first["version"]
    assert len(client.search_model_versions("name = 'atp'")) == 2
    client.delete_registered_model_alias("atp", "candidate")
    register_with_mlflow(params, identify(params))
    assert str(client.get_model_version_by_alias("atp", "candidate").version) == first["version"]


def test_no_adapted_model_is_one_line(small_project: Path) -> None:
    shutil.rmtree("runs/propagate")
    done = run_lean()
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: runs/propagate/model.safetensors: no such file; run the stage that makes it: dvc repro propagate"
    ]


def test_a_registry_that_does_not_answer_is_one_line(small_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    done = run_lean()
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: MLflow at http://127.0.0.1:9 does not work (")
    assert not Path("runs/register").exists()
