"""Real experiments of DVC's: a grid that is killed and goes on, what fails, and what is taken."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests import warm
from tests.clone import ROOT, dvc, git
from tests.selection.project import make_project

GRID = ("--grid", "propagate.lr=0.2,0.9", "--grid", "evidence.on_collapse=stop")


@dataclass(frozen=True)
class Project:
    """A project and how the stages of its experiments were started."""

    folder: Path

    def atp(self, *arguments: str, stderr: Any = subprocess.PIPE) -> "subprocess.Popen[str]":
        environment = {**os.environ, "ATP_TEST_LOG": str(self.log)}
        return subprocess.Popen(
            [sys.executable, "-m", "atp.cli", *arguments],
            cwd=self.folder,
            env={**environment, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def select(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """What ``atp select`` prints, to both streams."""
        process = self.atp("select", *arguments)
        out, error = process.communicate()
        assert process.returncode == code, out + error
        return out, error

    @property
    def log(self) -> Path:
        return self.folder.parent / "log"

    def started(self, what: str) -> int:
        """How often a stage was."""
        return sum(line.startswith(what) for line in self.log.read_text().splitlines())


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """After a grid whose first experiment was killed, with everything that ran it, in its last stage."""
    project = Project(tmp_path_factory.mktemp("select") / "project")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATP_TEST_LOG", str(project.log))
        make_project(project.folder)
    hold = project.folder.parent / "hold-evaluate"
    hold.touch()
    shown = project.folder.parent / "shown"
    with shown.open("w") as file:
        process = project.atp("select", *GRID, "--run", stderr=file)
    deadline = time.monotonic() + 300
    # Started, and shown while it runs.
    while not (project.started("evaluate 0.2") and "stage evaluate 0.2" in shown.read_text()):
        assert process.poll() is None, shown.read_text()
        assert time.monotonic() < deadline, shown.read_text()
        time.sleep(0.1)
    worker = json.loads((project.folder / ".dvc/tmp/exps/celery/dvc-exp-worker-1.json").read_text())["pid"]
    runs = [json.loads(path.read_text()) for path in (project.folder / ".dvc/tmp/exps/run").glob("*/*.json")]
    for pid in (process.pid, worker, *(run["pid"] for run in runs if run["returncode"] is None)):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    hold.unlink()
    project.select(*GRID, "--run")
    return project


def test_a_killed_grid_goes_on_and_computes_nothing_twice(project: Project) -> None:
    assert [project.started(f"propagate {lr}") for lr in (0.2, 0.9)] == [1, 1]
    assert project.started("evaluate 0.2") == 2, "the stage in which it was killed"
    out, _ = project.select(*GRID)
    assert "finished before: lr=0.2-" in out
    assert "queued" not in out
    # No clone of a killed experiment is left.
    assert not list((project.folder / ".dvc/tmp/exps").glob("tmp*"))


def test_an_experiment_that_its_evidence_stopped_is_shown_as_failed(project: Project) -> None:
    out, _ = project.select()
    assert ": failed: propagate: collapsed: two classes of nine are left" in out
    assert "Failed" in dvc(project.folder, "queue", "status")
    again, _ = project.select(*GRID)
    assert "failed before; to retry" in again


def test_experiments_are_ranked_beside_the_workspace(project: Project) -> None:
    choice = json.loads(project.select("--json")[0])
    assert [row["name"].partition("-")[0] for row in choice["runs"]] == ["lr=0.2", "workspace"]
    assert choice["runs"][0]["params"]["propagate.lr"] == "0.2"
    assert choice["picked"] == choice["runs"][0]["name"]
    assert [row["miou"] for row in choice["oracle"]["runs"]] == [60.0, 42.0]
    assert [row["state"] for row in choice["others"]] == ["failed"]


def test_an_experiment_knows_the_project_that_it_belongs_to(project: Project) -> None:
    """So that its figures and unfinished states do not vanish with its clone."""
    lines = [line.split() for line in project.log.read_text().splitlines() if " 0.2 " in line]
    assert {line[2].partition("-")[0] for line in lines} == {"lr=0.2"}
    assert {line[3] for line in lines} == {str(project.folder)}


def test_what_git_does_not_know_is_told(project: Project) -> None:
    path = project.folder / "network.py"
    path.touch()
    assert "network.py: not in git, so missing in the experiments" in project.select(*GRID)[1]
    path.unlink()


def test_a_bad_grid_is_refused_before_anything_is_queued(project: Project) -> None:
    before = _tasks(project)
    _, error = project.select("--grid", "propagate.lr=0.3,quick", code=2)
    assert error.startswith("error: --grid propagate.lr=quick: ")
    assert error.count("\n") == 1
    assert _tasks(project) == before


def _tasks(project: Project) -> str:
    """The queue's tasks, without the number of its workers, since an idle one may end at any moment."""
    tasks, _, _ = dvc(project.folder, "queue", "status").partition("Worker status:")
    assert tasks.startswith("Task")
    return tasks


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--stage", "align", "--apply"], "no run is picked"),
        (["--run"], "--run runs a grid"),
        (["--by", "foo", *GRID], "--by foo: no such indicator; choose from "),
    ],
)
def test_what_is_wrong_is_told(project: Project, arguments: list[str], said: str) -> None:
    _, error = project.select(*arguments, code=2)
    assert error.startswith("error: ")
    assert said in error


def test_an_edited_workspace_is_not_taken_for_what_it_ran(project: Project) -> None:
    path = project.folder / "params.yaml"
    text = path.read_text()
    path.write_text(text.replace("confidence: 0.9", "confidence: 0.8"))
    assert path.read_text() != text
    assert "workspace: not ranked: propagate.confidence in params.yaml was changed since" in project.select()[0]
    path.write_text(text)


def test_what_was_measured_of_an_earlier_model_is_not_shown(project: Project) -> None:
    path = project.folder / "dvc.lock"
    text = path.read_text()
    lock = YAML(typ="safe").load(text)
    lock["stages"]["propagate"]["outs"][0]["md5"] = "0" * 32 + ".dir"
    YAML().dump(lock, path)
    choice = json.loads(project.select("--json")[0])
    assert [row["name"].partition("-")[0] for row in choice["oracle"]["runs"]] == ["lr=0.2"]
    path.write_text(text)


def test_a_round_that_is_gone_does_not_count_as_an_edit(project: Project) -> None:
    """DVC keeps its entry in dvc.lock."""
    path = project.folder / "dvc.lock"
    text = path.read_text()
    gone = (
        "  teach@r09:\n    cmd: python stage.py teach\n    params:\n      params.yaml:\n        teach: {epochs: 99}\n"
    )
    path.write_text(text.replace("stages:\n", f"stages:\n{gone}"))
    assert path.read_text() != text
    assert "workspace: not ranked" not in project.select()[0]
    path.write_text(text)


CELL = """
from atp.selection.grid import Cell
from atp.selection.queue import Whose, enqueue, work
whose = Whose(everything=True)
values = {"evidence.on_collapse": "stop"}
cells = [Cell(f"cell-{lr}", {"propagate.lr": lr, **values}) for lr in (0.1, 0.8)]
enqueue(cells, whose, jobs=1)
failed = work(cells, whose, every_s=0.5)
assert failed == {"cell-0.8": "propagate: collapsed: two classes of nine are left"}, failed
again = {state: names for state, names in enqueue(cells, whose).items() if names}
assert again == {"finished": ["cell-0.1"], "failed": ["cell-0.8"]}, again
"""


def test_a_cell_is_computed_whatever_dvc_lock_says_of_another_run(project: Project) -> None:
    """In a fresh clone, where the cache has nothing of it."""
    path = project.folder / "dvc.lock"
    text = path.read_text()
    lock = YAML(typ="safe").load(text)
    for stage in lock["stages"].values():
        stage["outs"][0]["md5"] = "0" * 32 + ".dir"
    YAML().dump(lock, path)
    stale = path.read_text()
    environment = {**os.environ, "ATP_TEST_LOG": str(project.log), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = warm.run(["-c", CELL], project.folder, environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert path.read_text() == stale
    path.write_text(text)


def test_the_picked_one_is_taken(project: Project) -> None:
    """Last: it changes the workspace."""
    out, _ = project.select("--apply")
    assert "applied: lr=0.2-" in out
    assert YAML(typ="safe", pure=True).load(project.folder / "params.yaml")["propagate"]["lr"] == 0.2
    evidence = json.loads((project.folder / "runs/propagate/evidence.json").read_text())
    assert evidence["after"]["scale_iou"] == 0.2
    assert "is the current workspace" in project.select()[0]


@pytest.mark.parametrize("folder", ["", "black_box"])
def test_an_experiment_in_a_fresh_clone_keeps_its_result(folder: str, tmp_path: Path) -> None:
    """DVC's cache has nothing of what dvc.lock says of stages that the experiment does not come to."""
    real = YAML(typ="safe").load(ROOT / folder / "dvc.yaml")
    report = {"cmd": "mkdir -p runs/report && touch runs/report/iou.png", "deps": ["runs/evaluate"]}
    report |= {kind: real["stages"]["report"].get(kind, []) for kind in ("outs", "plots")}
    evaluate = {"cmd": "mkdir -p runs/evaluate && touch runs/evaluate/a", "params": ["lr"], "outs": ["runs/evaluate"]}
    made = {"cmd": "mkdir -p runs/propagate && touch runs/propagate/history.csv runs/propagate/evidence.json"}
    propagate = {**made, "deps": ["runs/evaluate"], "outs": ["runs/propagate"]}
    tree = {"stages": {"evaluate": evaluate, "propagate": propagate, "report": report}}
    tree |= {kind: real[kind] for kind in ("plots", "metrics", "artifacts")}
    YAML().dump(tree, tmp_path / "dvc.yaml")
    (tmp_path / "params.yaml").write_text("lr: 1\nsplit: {model: runs/propagate}\n")
    (tmp_path / ".gitignore").write_text("/runs/\n")
    git(tmp_path, "init", "-q")
    dvc(tmp_path, "init", "-q")
    dvc(tmp_path, "repro", "-q")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "-qm", "all")
    for path in ("runs", ".dvc/cache"):
        shutil.rmtree(tmp_path / path)
    dvc(tmp_path, "exp", "run", "-S", "lr=2", "-n", "kept", "evaluate")
    assert "kept" in dvc(tmp_path, "exp", "list", "--name-only")


def test_without_git_or_dvc_one_line_says_so(tmp_path: Path) -> None:
    project = Project(tmp_path / "nothing")
    project.folder.mkdir()
    assert "no DVC repository" in project.select(code=2)[1]
