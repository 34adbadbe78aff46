"""docs/extending.md: what the page shows works as it stands."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.stages.launch import set_params

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/extending.md").read_text()


def blocks() -> dict[str, str]:
    """The page's files by their path, which is each block's first line."""
    return dict(re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE, re.DOTALL))


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with the page's files in it."""
    root = tmp_path_factory.mktemp("extended")
    shutil.copytree(ROOT / "atp", root / "atp", ignore=shutil.ignore_patterns("__pycache__"))
    for path, code in blocks().items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(code)
    return root


def run(extended: Path, folder: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(extended), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_each_is_under_60_lines() -> None:
    rival = [code for path, code in blocks().items() if "class_confusion" in path and path.startswith("atp/")]
    assert len(rival) == 2
    assert sum(len(code.splitlines()) + 1 for code in rival) < 60
    assert len(blocks()["atp/data/acdc.py"].splitlines()) + 1 < 60


def test_the_rival_s_own_tests_pass(extended: Path) -> None:
    done = run(extended, extended, "-m", "pytest", "-q", "-W", "error", "tests")
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_the_rival_is_a_method_of_align(extended: Path, adapted: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(adapted, tmp_path / "project"))
    set_params(project, "align", method="class_confusion", rival={"temperature": 2.0, "epochs": 1})
    done = run(extended, project, "-m", "atp.stages", "align")
    assert done.returncode == 0, done.stderr
    assert (project / "runs/align/history.csv").read_text().startswith("step,loss\n2,")
    set_params(project, "align", rival={"temprature": 2.0})
    done = run(extended, project, "-m", "atp.stages", "align")
    assert done.returncode == 2
    assert "align.rival.temprature: unknown key; is it temperature?" in done.stderr


def draw(path: Path, value: int) -> None:
    """An image, or a label with that id in the left half and 255 in the right."""
    path.parent.mkdir(parents=True)
    if "gt" in path.name:
        ids = np.full((8, 16), 255, np.uint8)
        ids[:, :8] = value
        Image.fromarray(ids).save(path)
    else:
        Image.new("RGB", (16, 8), (value, value, value)).save(path)


def test_the_data_set_becomes_a_pair_of_domains(extended: Path, tmp_path: Path) -> None:
    car, sky = 26, 23
    for split in ("train", "val"):
        draw(tmp_path / f"city/leftImg8bit/{split}/bern/bern_0_1_leftImg8bit.png", 90)
        draw(tmp_path / f"city/gtFine/{split}/bern/bern_0_1_gtFine_labelIds.png", sky)
        draw(tmp_path / f"acdc/rgb_anon/night/{split}/GOPR0351/GOPR0351_frame_000159_rgb_anon.png", 20)
        draw(tmp_path / f"acdc/gt/night/{split}/GOPR0351/GOPR0351_frame_000159_gt_labelIds.png", car)
    source, target = ("--source", "cityscapes", "city"), ("--target", "acdc-night", "acdc")
    done = run(extended, tmp_path, "-m", "atp.data.acdc", *source, *target, "data")
    assert done.returncode == 0, done.stderr
    assert "1 source, 1 target, 1 test images in data" in done.stdout
    assert "size: [960, 540]" in done.stdout
    with Image.open(tmp_path / "data/test/labels/GOPR0351_frame_000159.png") as file:
        assert np.unique(np.array(file)).tolist() == [13, 255]  # car's train id
    assert (tmp_path / "data/target/images/GOPR0351_frame_000159.png").exists()
    shutil.rmtree(tmp_path / "acdc/gt/night/val")
    done = run(extended, tmp_path, "-m", "atp.data.acdc", *source, *target, "again")
    assert done.returncode == 2
    assert "acdc/gt/night/val: no such folder; the labels *_gt_labelIds.png of acdc-night belong there" in done.stderr
