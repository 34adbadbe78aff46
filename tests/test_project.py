"""Where the project is: from its root, from a pipeline's folder, and from an experiment's temporary clone."""

from pathlib import Path

import pytest

from atp.project import kept, project_root
from atp.tracking import tracking_uri


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
