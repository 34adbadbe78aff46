"""What DVC's graph says is to be done."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from atp.errors import InputError
from flows.adapt import make_plan
from flows.overridden import overridden
from flows.plan import plan

PIPELINE = Path("dvc.yaml")


@pytest.fixture
def make_project(reproduced: Path, tmp_path: Path) -> Callable[[], Path]:
    """Makes a copy of the reproduced clone."""
    return lambda: Path(shutil.copytree(reproduced, tmp_path / "clone", symlinks=True))


@pytest.fixture
def changed(make_project: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reproduced project whose `split` is to be run again."""
    project = make_project()
    monkeypatch.chdir(project)
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("easy_ratio: 0.5", "easy_ratio: 0.25"))
    return project


def test_what_depends_on_a_change_is_to_be_done(changed: Path) -> None:
    steps = {step.name: step for step in plan(PIPELINE, None)}
    assert {name for name, step in steps.items() if not step.clean} == {
        "split",
        "propagate",
        "evaluate",
        "report",
        "register",
    }
    assert not steps["register"].always
    assert set(steps["teach@r02"].after) == {"data.dvc", "dump@r02", "teach@r01"}
    # Each comes after what it reads.
    names = list(steps)
    assert all(names.index(name) > names.index(before) for name in names for before in steps[name].after)
    # Up to a stage there is only what that needs.
    assert [step.name for step in plan(PIPELINE, "align")][-1] == "align"
    with pytest.raises(InputError, match="is it propagate"):
        plan(PIPELINE, "proppagate")
    with pytest.raises(InputError, match=r"other\.yaml: no such pipeline"):
        plan(Path("other.yaml"), None)
    shutil.rmtree(changed / "runs/align")
    assert not next(step for step in plan(PIPELINE, None) if step.name == "align").clean


def test_a_pipeline_in_a_folder_has_its_own_parameters(
    make_project: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stages are called as in that folder; what a run changes is that folder's params.yaml, and only meanwhile."""
    project = make_project()
    monkeypatch.chdir(project / "black_box")
    before = Path("params.yaml").read_bytes(), Path("../params.yaml").read_bytes()
    with overridden({"rounds.r02": {"model": "runs/distill"}}) as copy:
        assert copy is not None
        assert copy.name.startswith("black_box-flow-")
        steps = {step.name: step for step in make_plan("dvc.yaml", "")}
    assert list(steps)[:3] == ["../data.dvc", "query", "distill"]
    assert steps["../data.dvc"].clean
    assert set(steps["teach@r02"].after) == {"../data.dvc", "distill", "dump@r02"}
    assert not steps["propagate"].clean
    assert (Path("params.yaml").read_bytes(), Path("../params.yaml").read_bytes()) == before
    assert Path.cwd() == project / "black_box"
    monkeypatch.chdir(project)
    assert {step.name for step in plan(PIPELINE, None)} == {
        "data.dvc", "source", "align", "dump@r01", "teach@r01", "dump@r02", "teach@r02", "split", "propagate",
        "evaluate", "report", "register",
    }  # fmt: skip
