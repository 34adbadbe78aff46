"""A project's dvc.yaml is the repository's, and another version of the package reruns the stages that it changes."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from atp.project import pipeline
from atp.project.pipeline import code_of_stages, project_pipeline
from flows.plan import plan
from tests.clone import BIN
from tests.test_stale import ALL, DEFAULTS, LINES

ROOT = Path(__file__).parents[2]
PARAMS = YAML(typ="safe").load(ROOT / "params.yaml")
STAGES = ALL | {"report"}
"""What depends on code of the package; ``register`` always runs."""


def stages(text: str) -> dict[str, Any]:
    tree = YAML(typ="safe").load(text)
    return {name: stage.get("do", stage) for name, stage in tree["stages"].items()}


def test_a_project_has_the_repository_s_stages() -> None:
    ours, theirs = stages((ROOT / "dvc.yaml").read_text()), stages(project_pipeline())
    assert list(theirs) == ["code", *ours]
    for name, stage in ours.items():
        deps = [dep for dep in stage["deps"] if not dep.startswith("atp/") and dep != "${model.code}"]
        params = [each for each in stage["params"] if isinstance(each, str)]
        code = [{"runs/code.json": [name]}] if name in STAGES else []
        assert theirs[name] == stage | {"deps": deps, "params": [*params, *code]}, name


def test_folders_outside_are_inputs_of_what_reads_all_data() -> None:
    linked = stages(project_pipeline(["data.target.images", "data.test.labels"]))
    for name, stage in stages(project_pipeline()).items():
        more = [dep for dep in linked[name].get("deps", []) if dep not in stage.get("deps", [])]
        expected = {"report": ["${data.target.images}", "${data.test.labels}"]}
        assert more == (expected["report"] if name in ("evaluate", "report") else []), name


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package, whose code counts, to be changed."""
    folder = tmp_path / "site/atp"
    shutil.copytree(ROOT / "atp", folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(pipeline, "PACKAGE", folder)
    return folder


def test_another_version_changes_the_digests_of_the_stages_that_it_changes(package: Path) -> None:
    """As in the repository, where DVC sees each file."""
    before = code_of_stages(PARAMS, Path())
    edits = [
        *((f"{room}/settings.py", old, new, expected) for room, old, new, expected in DEFAULTS),
        *((file, "", "# Another line.\n", expected) for file, expected in LINES),
    ]
    for file, old, new, expected in edits:
        path = package / file
        text = path.read_text()
        assert old in text, f"{file}: nothing to change"
        path.write_text(text.replace(old, new, 1))
        after = code_of_stages(PARAMS, Path())
        assert {name for name in before if before[name] != after[name]} == expected, f"{file}: {new}"
        path.write_text(text)


def test_a_compiled_file_changes_none(package: Path) -> None:
    before = code_of_stages(PARAMS, Path())
    (package / "training/__pycache__").mkdir()
    (package / "training/__pycache__/loop.pyc").write_bytes(b"")
    assert code_of_stages(PARAMS, Path()) == before


def test_the_network_s_own_code_counts_for_the_source_model(tmp_path: Path) -> None:
    params = PARAMS | {"model": {"code": "nets"}}
    before = code_of_stages(params, tmp_path)
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets/net.py").write_text("")
    after = code_of_stages(params, tmp_path)
    assert {name for name in after if after[name] != before[name]} == {"source"}


@pytest.mark.processes
def test_an_upgrade_runs_the_stages_whose_code_it_changes(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By DVC, with stages that do nothing but write their folder."""
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
    project = tmp_path / "project"
    for name in ("source", "target/images", "test/images"):
        (project / "data" / name).mkdir(parents=True)
        (project / "data" / name / "file").write_text("")
    text = re.sub(
        r"python -m atp\.stages (\w+) --round (\S+)", r"mkdir -p runs/\1/\2; touch runs/\1/\2/x", project_pipeline()
    )
    text = re.sub(r"python -m atp\.stages (\w+)", r"mkdir -p runs/\1; touch runs/\1/x", text)
    (project / "dvc.yaml").write_text(text[: text.index("metrics:")])
    shutil.copy2(ROOT / "params.yaml", project)
    monkeypatch.chdir(project)
    Repo.init(".", no_scm=True)

    def ran() -> list[str]:
        with Repo(".") as repo:
            return [stage.addressing for stage in repo.reproduce()]

    assert len(ran()) == len(stages(text)), "everything at first"
    assert ran() == ["code", "register"], "which always run"
    file = package / "losses/pseudo_label.py"
    file.write_text(file.read_text() + "\n# Another line.\n")
    # Before anything runs: as for the flow, those after a changed stage may change too.
    unchanged = {step.name for step in plan(Path("dvc.yaml"), None) if step.clean}
    assert unchanged == {"source", "align", "dump@r01"}
    assert ran() == ["code", "teach@r01", "propagate", "register"]
    assert json.loads(Path("runs/code.json").read_text()) == code_of_stages(PARAMS, Path())
