"""A stage whose model collapses: stopped, taken back or told, and nothing half-written."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from tests.stages.launch import RunStage, set_params
from tests.stages.test_stages import run_in_two, state


@pytest.fixture
def collapsing(adapted: Path, tmp_path: Path) -> Path:
    """A project whose align will answer one class everywhere: entropy alone, at a rate that no model survives."""
    project = Path(shutil.copytree(adapted, tmp_path / "project"))
    shutil.rmtree(project / "runs/align")
    set_params(project, "align", alpha=100.0, diversity=0.0, lr=2.0)
    return project


def evidence(project: Path, folder: str) -> Any:
    return json.loads((project / "runs" / folder / "evidence.json").read_text())


def guarded(project: Path, on_collapse: str) -> Path:
    set_params(project, "evidence", on_collapse=on_collapse)
    return project


def test_evidence_is_carried_from_stage_to_stage(adapted: Path) -> None:
    align, first, second, last = (evidence(adapted, f) for f in ("align", "teach/r01", "teach/r02", "propagate"))
    assert align["before"] == align["source"] == first["source"] == second["source"] == last["source"]
    assert (first["before"], second["before"], last["before"]) == (align["after"], first["after"], second["after"])
    assert {tree["images"] for tree in (align, first, second, last)} == {8}
    assert not (adapted / "runs/source/evidence.json").exists()
    # Training has changed the model, and its predictions with it.
    assert 0.5 < last["after"]["stability"] < 1


def test_a_collapse_stops_the_stage_and_leaves_nothing(collapsing: Path, run_stage: RunStage) -> None:
    ended = run_stage(guarded(collapsing, "stop"), "align")
    assert ended.code == 2
    assert "error: align: its model collapsed and was not saved: " in ended.output
    assert not (collapsing / "runs/align").exists()
    assert not list((collapsing / "runs").glob(".align*"))


def test_a_stopped_training_is_not_repeated_for_another_guard(collapsing: Path, run_stage: RunStage) -> None:
    run_stage(guarded(collapsing, "stop"), "align")
    ended = run_stage(guarded(collapsing, "revert"), "align")
    assert ended.code == 0
    assert "align: continues at step 6 of 6" in ended.output
    assert not list((collapsing / ".atp/state").glob("align*"))


def test_a_collapsed_model_is_taken_back(collapsing: Path, run_stage: RunStage) -> None:
    assert run_stage(guarded(collapsing, "revert"), "align").code == 0
    before, after = state(collapsing, "source"), state(collapsing, "align")
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    told = evidence(collapsing, "align")
    assert (told["verdict"], told["reverted"]) == ("collapsed", True)
    assert told["after"] == told["before"]
    # What follows builds on it.
    assert run_stage(collapsing, "dump", "--round", "r01").code == 0
    assert run_stage(collapsing, "teach", "--round", "r01").code == 0
    assert evidence(collapsing, "teach/r01")["before"] == told["source"]


@pytest.mark.parametrize("guard", ["revert", "warn"])
def test_a_model_judged_worse_than_the_one_before_is_taken_back(
    adapted: Path, tmp_path: Path, run_stage: RunStage, guard: str
) -> None:
    """As align's model agrees perfectly with itself here, no other can be as good."""
    project = guarded(Path(shutil.copytree(adapted, tmp_path / "project")), guard)
    tree = evidence(project, "align")
    tree["source"]["scale_iou"], tree["after"]["scale_iou"] = 0.0, 1.0
    (project / "runs/align/evidence.json").write_text(json.dumps(tree))
    ended = run_stage(project, "teach", "--round", "r01")
    assert ended.code == 0
    why = "but its agreement across scales is lower than that of the model from which the stage started (class-IoU 1.00"
    assert why in ended.output
    told = evidence(project, "teach/r01")
    assert told["verdict"] != "collapsed"
    assert why in told["why"]
    assert (told["reverted"], told["after"] == told["before"]) == (guard == "revert", guard == "revert")
    before, after = state(project, "align"), state(project, "teach/r01")
    assert all(torch.equal(value, after[name]) for name, value in before.items()) == (guard == "revert")


def test_a_model_that_is_taken_back_leaves_no_momentum(adapted: Path, tmp_path: Path, run_stage: RunStage) -> None:
    project = guarded(Path(shutil.copytree(adapted, tmp_path / "project")), "revert")
    for lr, kept in ((0.001, True), (200.0, False)):
        set_params(project, "teach", rounds_per_schedule=2, epochs=1, lr=lr, positive=1.0, ema=None)
        assert run_stage(project, "teach", "--round", "r01").code == 0
        assert evidence(project, "teach/r01")["reverted"] != kept
        assert (project / "runs/teach/r01/optimizer.safetensors").exists() == kept


def test_a_collapse_is_told_and_handed_on(collapsing: Path, run_stage: RunStage) -> None:
    ended = run_stage(guarded(collapsing, "warn"), "align")
    assert ended.code == 0
    assert "align: collapsed, judged without labels: " in ended.output
    assert "align: classes that almost vanished: " in ended.output
    assert b"classes that almost vanished: " in (collapsing / "mlflow.db").read_bytes()
    told = evidence(collapsing, "align")
    assert (told["verdict"], told["reverted"]) == ("collapsed", False)
    assert told["after"]["classes"] < told["source"]["classes"]


def test_of_two_processes_the_second_stops_with_the_first(collapsing: Path) -> None:
    set_params(guarded(collapsing, "stop"), "runtime", processes=2)
    done = run_in_two(collapsing, "-m", "atp.stages", "align")
    assert done.returncode == 2
    assert done.stderr.count("error: align: its model collapsed") == 1
    assert "Traceback" not in done.stderr
    assert not (collapsing / "runs/align").exists()


def test_evidence_of_other_images_is_no_measure(adapted: Path, tmp_path: Path, run_stage: RunStage) -> None:
    project = Path(shutil.copytree(adapted, tmp_path / "project"))
    set_params(project, "evidence", images=4)
    ended = run_stage(project, "teach", "--round", "r01")
    assert ended.code == 2
    assert (
        "error: runs/align/evidence.json: measured on 8 images, but evidence.images in params.yaml now gives 4; "
        "run that stage again, as dvc repro does" in ended.output
    )


LARGE = """
from torch import nn
class Net(nn.Sequential):
    def forward(self, images):
        if images.shape[-1] > 32:
            raise RuntimeError("too large")
        return super().forward(images)
def make():
    return Net(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 1))
"""


def test_a_training_that_cannot_be_judged_is_kept(template: Path, tmp_path: Path, run_stage: RunStage) -> None:
    """The evidence's larger view is 40x30, of a network that takes images of up to 32 pixels."""
    project = Path(shutil.copytree(template, tmp_path / "project"))
    (project / "large.py").write_text(LARGE)
    yaml = YAML(typ="safe")
    tree = yaml.load(project / "params.yaml")
    tree["model"] = {"factory": "large:make", "classifier": "2", "code": "large.py"}
    tree["dump"]["scales"] = [1.0]
    yaml.dump(tree, project / "params.yaml")
    assert run_stage(project, "source").code == 0
    ended = run_stage(project, "align")
    assert ended.code == 2
    (line,) = [line for line in ended.output.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: align: its model is trained but could not be judged without labels: ")
    assert "fails on images of 40x30 (RuntimeError: too large)" in line
    assert "Traceback" not in ended.output
    assert not (project / "runs/align").exists()
    set_params(project, "runtime", save_unjudged=True)
    for stage in (["align"], ["dump", "--round", "r01"], ["teach", "--round", "r01"]):
        ended = run_stage(project, *stage)
        assert ended.code == 0, ended.output
        assert ("align: continues at step 6 of 6" in ended.output) == (stage == ["align"])
    assert sorted(path.name for path in (project / "runs/align").iterdir()) == ["history.csv", "model.safetensors"]
