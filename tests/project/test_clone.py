"""Own data in a clone of the repository."""

import shutil
from pathlib import Path

import pytest
from dvc.repo import Repo
from typer.testing import CliRunner

from atp.cli import app
from atp.params import load_params
from tests.test_cli import write_project

ROOT = Path(__file__).parents[2]


def test_own_data_take_the_place_of_the_embedded_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone = tmp_path / "clone"
    (clone / "atp/stages").mkdir(parents=True)
    (clone / "embedded").mkdir()
    (clone / "embedded/image.png").write_text("pixels")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy2(ROOT / name, clone)
    monkeypatch.chdir(clone)
    Repo.init(".", no_scm=True)
    with Repo(".") as repo:
        repo.imp_url("embedded", "data")
    mine = write_project(tmp_path / "mine")
    done = CliRunner().invoke(app, ["init", ".", "--data", str(mine / "data"), "--size", "12x8"])
    assert done.exit_code == 0, done.output + str(done.exception)
    assert not Path("data/image.png").exists()
    assert load_params().data.size == (12, 8)
    with Repo(".") as repo:
        assert repo.status(targets="data.dvc") == {}
        (mine / "data/target/images/0.png").write_text("another")
        assert "changed deps" in str(repo.status(targets="data.dvc")), "changes of the original are noticed"
    done = CliRunner().invoke(app, ["init", ".", "--images", str(mine / "data/target/images")])
    assert "a clone of ATP's repository, which takes its data whole" in str(done.exception)
