"""One cell on tiny data, by DVC's queue, in a clone where nothing has run but whose dvc.lock says otherwise."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from atp.cli import app
from atp.studies import command
from atp.studies.catalogue import STUDIES
from tests import warm
from tests.clone import PATH, ROOT, git, make_clone

# A table of one row, so that it takes seconds.
SCRIPT = """
import sys
from atp.cli import main
from atp.studies import catalogue, testbeds
from atp.studies.definitions import SOURCE, Table, row
# What is written to params.yaml on the way: a number, a word, a list and nothing.
values = {**testbeds.ROBUST, "data.size": [80, 40], "data.class_map": None}
table = Table("Tiny", "One row.", (row("source", SOURCE),))
catalogue.STUDIES["parts"] = catalogue.Study("", lambda params: table)
testbeds.TESTBEDS["tiny"] = testbeds.Testbed("", values)
sys.argv = ["atp", "study", "parts", "--testbed", "tiny", "--seeds", "0", *sys.argv[1:]]
main()
"""


def table(clone: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    path = f"{warm.binaries()}{os.pathsep}{PATH}"
    return warm.run(["-c", SCRIPT, *options], clone, {**environment, "PATH": path, "PYTHONPATH": str(clone)})


def test_studies_are_listed_and_another_name_is_refused_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    listed = CliRunner().invoke(app, ["study"])
    assert listed.exit_code == 0
    assert [line.split()[0] for line in listed.stdout.split("\n\n")[0].splitlines()] == list(STUDIES)
    monkeypatch.setattr(command, "bring_in", lambda: pytest.fail("the name comes first"))
    assert "partss: no such study" in str(CliRunner().invoke(app, ["study", "partss"]).exception)
    for words in (["study", "parts"], ["table", "5"]):
        refused = str(CliRunner().invoke(app, [*words, "--testbed", "mars"]).exception)
        assert refused == "mars: no such testbed; choose from streets, robust, camvid-dusk, camvid-idd, idd-camvid"
    for what, known in (("table", "1, 2"), ("figure", "4, 5, 6")):
        refused = str(CliRunner().invoke(app, [what, "10"]).exception)
        assert f"{what} 10: no such {what}; choose from {known}" in refused


@pytest.mark.parametrize("on", ["test", "validation"])
def test_images_that_a_study_cannot_measure_on_are_told_in_one_line(
    on: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "project_root", lambda: tmp_path)
    monkeypatch.setattr(command, "bring_in", lambda: None)
    shutil.copytree(ROOT / "assets/streets/source", tmp_path / "data/source", ignore=lambda *_: ["images", "labels"])
    text = (ROOT / "params.yaml").read_text()
    assert f"labels: data/{on}/labels" in text

    def refusal() -> str:
        return str(CliRunner().invoke(app, ["study", "parts", "--collect", "--on", on]).exception)

    (tmp_path / "params.yaml").write_text(text)
    assert refusal() == (f"params.yaml: data.{on}.images: data/{on}/images: no such folder; a study measures on these")
    (tmp_path / "params.yaml").write_text(text.replace(f"labels: data/{on}/labels", "labels: null"))
    assert refusal() == f"params.yaml: data.{on}.labels: null; a study needs the labels of the {on} images"


def test_data_in_a_plain_folder_need_their_full_path_and_new_code_needs_git(tmp_path: Path) -> None:
    clone, elsewhere = tmp_path / "clone", tmp_path / "elsewhere"
    make_clone(clone)
    git(clone, "rm", "-q", "data.dvc")
    git(clone, "commit", "-qm", "a plain folder")
    refused = table(clone)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1), refused.stderr
    assert "data.source.root: data/source is neither in DVC nor in git" in refused.stderr
    (clone / "data").rename(elsewhere)
    params = clone / "params.yaml"
    params.write_text(
        params.read_text().replace("data/", f"{elsewhere}/").replace("root: data ", f"root: {elsewhere} ")
    )
    named = params.read_text()
    params.write_text(named.replace(f"{elsewhere}/validation", "plain"))
    shutil.copytree(elsewhere / "validation", clone / "plain")
    refused = table(clone, "--on", "validation")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1), refused.stderr
    assert "data.validation.images: plain/images is neither in DVC nor in git" in refused.stderr
    params.write_text(named)
    shutil.rmtree(clone / "plain")
    new = clone / "atp/baselines/new.py"
    new.touch()
    refused = table(clone)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1), refused.stderr
    assert "atp/baselines/new.py: not in git" in refused.stderr
    new.unlink()
    done = table(clone)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 finished before, 1 to compute" in done.stderr
    assert "Missing" not in done.stdout
    assert "Missing" not in table(clone, "--collect").stdout
    image = next((elsewhere / "source/images").iterdir())
    image.write_bytes(image.read_bytes() + b"another one")
    assert "Missing" in table(clone, "--collect").stdout


def test_a_cell_is_computed_once_in_a_fresh_clone(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    make_clone(clone)
    shutil.copy2(ROOT / "dvc.lock", clone)
    git(clone, "add", "dvc.lock")
    git(clone, "commit", "-qm", "the lock of results that are elsewhere")
    for path in ("data", ".dvc/cache"):
        shutil.rmtree(clone / path)
    done = table(clone)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 finished before, 1 to compute" in done.stderr
    assert "| source | " in done.stdout
    assert "Missing" not in done.stdout
    assert (clone / "runs/studies/parts-tiny.png").is_file()
    # The workspace is as it was: a cell leaves its result in its experiment alone.
    assert not (clone / "runs/source").exists()
    assert (clone / "dvc.lock").read_bytes() == (ROOT / "dvc.lock").read_bytes()
    (clone / "README.md").write_text("changed")
    git(clone, "commit", "-qam", "docs")
    again = table(clone)
    assert "1 finished before, 0 to compute" in again.stderr, again.stderr
    assert again.stdout == done.stdout
    # Other images are another cell, which test_contents shows to have the same source model.
    other = table(clone, "--on", "validation", "--collect")
    assert "### Tiny, on the validation images\n" in other.stdout
    assert "Missing" in other.stdout
    assert {"parts-tiny.json", "parts-tiny-validation.json"} < {
        path.name for path in (clone / "runs/studies").iterdir()
    }
