"""``atp adapt``: from an own project to masks, on and on; its stages have run elsewhere."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from atp.cli import app
from atp.project import run


@pytest.fixture
def reproduced_here(adapted: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """In place of DVC: the results of the tiny project. Returns the folders in which it was to run."""
    places: list[Path] = []

    def reproduce(out: Path) -> None:
        places.append(Path.cwd())
        if not Path("runs").exists():
            shutil.copytree(adapted / "runs", "runs")

    monkeypatch.setattr(run, "_reproduce", reproduce)
    monkeypatch.chdir(tmp_path)
    return places


def adapt(*arguments: str) -> tuple[str, str]:
    """What is said, and the error."""
    done = CliRunner().invoke(app, ["adapt", "--out", "new", *arguments])
    return done.output, str(done.exception or "")


def test_one_command_from_images_to_masks(reproduced_here: list[Path], adapted: Path, tmp_path: Path) -> None:
    settings = ("--set", "rounds.r02={model: runs/teach/r01}", "--set", "split.model=runs/teach/r02")
    given = ("--data", str(adapted / "data"), "--size", "32x24", *settings)
    said, error = adapt(*given)
    assert not error
    assert reproduced_here == [tmp_path / "new"]
    names = sorted(path.stem for path in (adapted / "data/target/images").iterdir())
    assert sorted(path.stem for path in Path("new/masks").iterdir()) == names
    assert len(list(Path("new/overlays").iterdir())) == len(names)
    with Image.open("new/masks/00.png") as mask:
        assert mask.size == (32, 24)
        assert set(np.unique(np.array(mask))) <= {0, 1, 2}
    for line in ("mIoU, %", "masks:    new/masks (8", "report:   new/runs/report/index.html", "atp predict IMAGES OUT"):
        assert line in said, line
    again, error = adapt(*given)
    assert not error
    assert "new: goes on with this project" in again
    assert adapt()[1] == "", "nor need they be told again"
    assert len(reproduced_here) == 3
    _, error = adapt(*given, "--seed", "3")
    differs = "new: --seed is 3 here, but was not given when the project was made"
    assert error == f"{differs}; change it in the settings in new, or choose another --out"
    _, error = adapt("--size", "64x48")
    assert "--size is 64x48 here, but 32x24 when" in error
    assert len(reproduced_here) == 3


def test_images_that_were_added_or_replaced_come_into_the_project(
    reproduced_here: list[Path], adapted: Path, tmp_path: Path
) -> None:
    data, copies = Path(shutil.copytree(adapted / "data", tmp_path / "data")), Path("new/data/target/images")
    adapt("--data", str(data), "--size", "32x24")
    before = Path("new/data.dvc").read_text()
    said, _ = adapt()
    assert "copied" not in said
    assert Path("new/data.dvc").read_text() == before
    for kind in ("images", "labels"):
        shutil.copyfile(data / f"target/{kind}/00.png", data / f"target/{kind}/new.png")
    shutil.copyfile(data / "target/images/01.png", data / "target/images/02.png")
    said, error = adapt()
    assert not error
    told = f"{data / 'target/images'}: 3 new or changed files, labels included; copied to new/data/target"
    assert told in said
    assert (copies / "new.png").read_bytes() == (copies / "00.png").read_bytes()
    assert (copies / "02.png").read_bytes() == (copies / "01.png").read_bytes()
    assert Path("new/data.dvc").read_text() != before
    shutil.rmtree(data)
    said, error = adapt()
    assert not error
    assert f"--data {data / 'target'}: no such folder; goes on with the project's copies" in said


def test_what_doctor_finds_ends_it_before_the_first_stage(reproduced_here: list[Path], adapted: Path) -> None:
    CliRunner().invoke(app, ["init", "new", "--data", str(adapted / "data"), "--size", "32x24"])
    Path("new/data/target/images/00.png").write_text("no image")
    _, error = adapt()
    assert "data/target/images/00.png: cannot be read as an image" in error
    assert not reproduced_here
    assert json.loads(Path("new/origin.json").read_text())["options"]["size"] == "32x24"


def test_what_doctor_finds_in_a_new_project_leaves_none_so_that_the_corrected_command_makes_one(
    reproduced_here: list[Path], adapted: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(adapted / "data", tmp_path / "data"))
    (data / "target/images/00.png").write_text("no image")
    given = ("--data", str(data), "--size", "32x24", "--epochs", "1")
    _, error = adapt(*given)
    assert "00.png: cannot be read as an image" in error
    assert not Path("new").exists()
    shutil.copyfile(adapted / "data/target/images/00.png", data / "target/images/00.png")
    _, error = adapt("--data", str(data), "--size", "32x24")
    assert not error
