"""Where the project is: from its root, from a pipeline's folder, and from an experiment's temporary clone."""

import shutil
import subprocess
from pathlib import Path

import pytest

from atp.runner.project import kept, project_root
from atp.runner.tracking import tracking_uri


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("DVC_ROOT", "DVC_EXP_NAME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    root = tmp_path / "project"
    (root / ".dvc").mkdir(parents=True)
    return root


def test_a_pipeline_in_a_folder_shares_the_projects_database(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "black_box").mkdir()
    monkeypatch.chdir(project / "black_box")
    assert tracking_uri() == f"sqlite:///{project}/mlflow.db"
    assert kept() == Path(".atp")


def test_without_dvc_the_working_folder_is_the_project(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert project_root() == tmp_path


def test_an_experiment_tracks_and_keeps_its_state_in_the_project(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = project / ".dvc/tmp/exps/tmpabc"
    (clone / ".dvc").mkdir(parents=True)
    monkeypatch.chdir(clone)
    monkeypatch.setenv("DVC_ROOT", str(project))
    monkeypatch.setenv("DVC_EXP_NAME", "lr=0.1")
    assert tracking_uri() == f"sqlite:///{project}/mlflow.db"
    assert kept() == project / ".atp/experiments/lr=0.1"
    # One that runs in the workspace is a run like any other.
    monkeypatch.chdir(project)
    assert kept() == Path(".atp")


def test_git_takes_neither_own_images_nor_models_nor_predictions(tmp_path: Path) -> None:
    """By the names that the docs give them; what DVC writes about them and code is taken."""
    kept = ["black_box/box/predictions.dvc", "black_box/box/answer.py", "my_network.py", "data.dvc"]
    ignored = ["mydata/source/model.pth", "black_box/box/predictions/1.png", "adapted.pth", "adapted.safetensors"]
    shutil.copy(Path(__file__).parents[2] / ".gitignore", tmp_path)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    done = subprocess.run(
        ["git", "check-ignore", *kept, *ignored], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ignored
