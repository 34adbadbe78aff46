"""docs/how-to/extending.md: what the page shows works as it stands, and touches no more files than it says."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from tests import warm
from tests.stages.launch import set_params

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/how-to/extending.md").read_text()
FILES = {"A baseline": 1, "A propagation variant": 1, "A data set": 1, "A term of a loss": 3, "A stage": 4}


def new_files(text: str) -> dict[str, str]:
    """The page's files by their path, which is each block's first line."""
    return dict(re.findall(r"```python\n# (\S+)\n(.*?)```", text, re.DOTALL))


def changes(text: str) -> list[tuple[str, str]]:
    """The page's changes, each a path and a diff of hunks without line numbers."""
    return re.findall(r"```diff\n--- (\S+)\n(.*?)```", text, re.DOTALL)


def apply(path: Path, diff: str) -> None:
    for hunk in diff.split("@@\n"):
        lines = hunk.splitlines(keepends=True)
        old, new = ("".join(line[1:] for line in lines if line[0] in kept) for kept in (" -", " +"))
        text = path.read_text()
        assert text.count(old) == 1, f"{path}: not once in it: {old}"
        path.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with all that the page adds."""
    root = tmp_path_factory.mktemp("extended")
    shutil.copytree(ROOT / "atp", root / "atp", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, root)
    for name, code in new_files(PAGE).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(code)
    for name, diff in changes(PAGE):
        apply(root / name, diff)
    return root


def run(extended: Path, folder: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(extended), "OMP_NUM_THREADS": "1"}
    return warm.run(list(command), folder, environment)


@pytest.mark.parametrize("title", FILES)
def test_each_touches_no_more_files_than_promised(title: str) -> None:
    section = PAGE[PAGE.index(f"\n## {title}\n") + 1 :].split("\n## ")[0]
    paths = {*new_files(section), *(name for name, _ in changes(section))}
    assert len({path for path in paths if not path.startswith("tests/")}) == FILES[title]
    assert sum(len(code.splitlines()) for path, code in new_files(section).items() if path.startswith("atp/")) < 60


def test_the_page_s_own_tests_pass(extended: Path) -> None:
    # MLflow has imported anyio, which has a plugin of pytest's.
    warnings = ("-W", "error", "-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning")
    done = run(extended, extended, "-m", "pytest", "-q", *warnings, "-p", "no:cacheprovider", "tests")
    assert done.returncode == 0, done.stdout
    assert "7 passed" in done.stdout


def test_the_baseline_is_a_method_of_align(extended: Path, adapted: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(adapted, tmp_path / "project"))
    set_params(project, "align", method="baselines/class_confusion", baseline={"temperature": 2.0, "epochs": 1})
    done = run(extended, project, "-m", "atp.stages", "align")
    assert done.returncode == 0, done.stderr
    assert (project / "runs/align/history.csv").read_text().startswith("step,loss\n2,")
    set_params(project, "align", baseline={"temprature": 2.0})
    done = run(extended, project, "-m", "atp.stages", "align")
    assert done.returncode == 2
    assert "align.baseline.temprature: unknown key; is it temperature?" in done.stderr


def test_the_variant_is_a_mix_of_propagate(extended: Path, adapted: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(adapted, tmp_path / "project"))
    before = (project / "runs/propagate/history.csv").read_text()
    set_params(project, "propagate", mix="cow_mix")
    done = run(extended, project, "-m", "atp.stages", "propagate")
    assert done.returncode == 0, done.stderr
    after = (project / "runs/propagate/history.csv").read_text()
    assert after.splitlines()[0] == before.splitlines()[0] == "step,loss,supervised,consistency"
    assert after != before
    set_params(project, "propagate", mix="cowmix")
    done = run(extended, project, "-m", "atp.stages", "propagate")
    assert done.returncode == 2
    assert "propagate: mix cowmix: no such mix; is it cow_mix?" in done.stderr


def test_the_term_is_in_align_s_loss(extended: Path, adapted: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(adapted, tmp_path / "project"))
    set_params(project, "align", squares=0.5, epochs=1)
    done = run(extended, project, "-m", "atp.stages", "align")
    assert done.returncode == 0, done.stderr
    header, record = (project / "runs/align/history.csv").read_text().splitlines()
    found = dict(zip(header.split(","), map(float, record.split(",")), strict=True))
    section = YAML(typ="safe").load(project / "params.yaml")["align"]
    loss = section["alpha"] * found["entropy"] + section["diversity"] * found["diversity"] + 0.5 * found["squares"]
    assert -0.5 <= found["squares"] < -1 / 6
    assert found["loss"] == pytest.approx(loss, rel=1e-3)


def test_the_stage_runs_and_depends_on_its_code(extended: Path, adapted: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(adapted, tmp_path / "project"))
    done = run(extended, project, "-m", "atp.stages", "recalibrate")
    assert done.returncode == 0, done.stderr
    assert (project / "runs/recalibrate/model.safetensors").is_file()
    asked = "from atp.code import decisive\nfor path in decisive('atp.stages.recalibrate'): print(path)"
    done = run(extended, extended, "-c", asked)
    needed = [Path(line).relative_to(extended).as_posix() for line in done.stdout.splitlines()]
    deps = YAML(typ="safe").load(extended / "dvc.yaml")["stages"]["recalibrate"]["deps"]
    assert needed == [dep for dep in deps if dep.startswith("atp/")]


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
    done = run(extended, tmp_path, "-m", "atp.datasets", *source, *target, "data")
    assert done.returncode == 0, done.stderr
    assert "1 source, 1 target, 1 test images in data" in done.stdout
    assert "size: [960, 540]" in done.stdout
    with Image.open(tmp_path / "data/test/labels/GOPR0351_frame_000159.png") as file:
        assert np.unique(np.array(file)).tolist() == [13, 255]  # car's train id
    assert (tmp_path / "data/target/images/GOPR0351_frame_000159.png").exists()
    done = run(extended, tmp_path, "-m", "atp.cli", "doctor", "--data-set", "acdc-night", "acdc")
    assert "acdc/gt/night" not in done.stdout
    assert "acdc/rgb_anon/night/train: 1 of the 400 images published, each with its label" in done.stdout
    shutil.rmtree(tmp_path / "acdc/gt/night/val")
    done = run(extended, tmp_path, "-m", "atp.datasets", *source, *target, "again")
    assert done.returncode == 2
    assert "acdc/gt/night/val: no such folder; put the 106 labels *_gt_labelIds.png of acdc-night there" in done.stderr
