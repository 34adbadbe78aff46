"""The whole black-box pipeline as its users run it: `dvc repro black_box/dvc.yaml` in a clone, on tiny data."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests import warm
from tests.clone import ROOT, box_in, dvc, make_clone


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone whose black-box pipeline has run, from the root; its box is a folder of predictions."""
    clone = tmp_path_factory.mktemp("black_box") / "clone"
    make_clone(clone)
    box_in(clone)
    dvc(clone, "repro", "black_box/dvc.yaml")
    return clone


def test_every_stage_leaves_its_result_in_the_pipelines_folder(clone: Path) -> None:
    for path in (
        "query/target/table.json",
        "query/test/table.json",
        "distill/model.safetensors",
        "dump/r01/table.json",
        "teach/r01/model.safetensors",
        "split/ranking.json",
        "propagate/model.safetensors",
        "evaluate/predictions/source/0003.png",
        "report/index.html",
        "register/version.json",
    ):
        assert (clone / "black_box/runs" / path).is_file(), path
    assert (clone / "black_box/.atp").is_dir()
    assert not (clone / "runs").exists()


def test_the_box_is_measured_beside_the_models(clone: Path) -> None:
    metrics = json.loads((clone / "black_box/runs/evaluate/metrics.json").read_text())
    assert list(metrics["miou"]) == ["source", "distill", "teach", "propagate"]
    # Four of five columns are right.
    assert 40 < metrics["miou"]["source"] < 90


def test_run_in_its_folder_it_finds_everything_unchanged(clone: Path) -> None:
    output = dvc(clone / "black_box", "repro")
    for stage in ("query", "distill", "teach@r01", "propagate", "report"):
        assert f"Stage '{stage}' didn't change, skipping" in output


# MLflow's own use of SQLAlchemy.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_is_registered_under_its_own_name_in_the_projects_database(clone: Path) -> None:
    client = MlflowClient(f"sqlite:///{clone}/mlflow.db")
    (version,) = client.search_model_versions("name = 'atp-black-box'")
    assert version.tags["atp.source_answers"].startswith("sha256:")
    assert "atp.miou_source" in version.tags
    assert "of which only the answers were available" in version.description
    assert not (clone / "black_box/mlflow.db").exists()


def test_commands_in_the_folder_are_about_its_run(clone: Path, tmp_path: Path) -> None:
    def atp(*arguments: str) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return warm.run(["-m", "atp.cli", *arguments], clone / "black_box", environment)

    reported = atp("report")
    assert reported.returncode == 0, reported.stderr
    assert "distill" in reported.stdout
    predicted = atp("predict", "../data/test/images/0000.png", str(tmp_path))
    assert predicted.returncode == 0, predicted.stderr
    assert (tmp_path / "masks/0000.png").is_file()
