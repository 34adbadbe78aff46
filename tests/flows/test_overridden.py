"""A run with changed parameters works in a copy of the project; the user's files stay as they are."""

import os
import subprocess
from pathlib import Path

import pytest

from atp.errors import InputError
from atp.runner.project import kept, project_root
from flows.overridden import changed_text, overridden

TEXT = """# mine
data: {root: data}
teach:
  epochs: 4   # printed: 1
  lr: 0.02
"""
PIPELINE = """stages:
  teach:
    cmd: mkdir -p runs/teach && cp code/x.py mydata/1.png runs/teach
    deps: [code, mydata]
    params: [teach]
    outs: [runs/teach]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC project without git, with a stage whose code is new and whose data are no result."""
    root = tmp_path / "project"
    for name, text in (
        ("params.yaml", TEXT),
        ("dvc.yaml", PIPELINE),
        ("code/x.py", "x = 1\n"),
        ("mydata/1.png", "pixels"),
        ("runs/teach/1.png", "pixels"),
        (".dvc/config", "[core]\n    no_scm = true\n    analytics = false\n"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.chdir(root)
    for variable in ("DVC_ROOT", "DVC_EXP_NAME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    return root


def test_the_comments_stay() -> None:
    assert changed_text(TEXT, {"teach.epochs": 2}) == TEXT.replace("epochs: 4", "epochs: 2")


@pytest.mark.parametrize("versioned", [True, False])
def test_the_copy_has_the_changes_and_all_that_stages_read(project: Path, versioned: bool) -> None:
    if versioned:
        (project / ".dvc/config").write_text("[core]\n    analytics = false\n")
        (project / ".gitignore").write_text("/mydata/\n/runs/\n")
        who = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")
        subprocess.run(["git", "init", "-q"], check=True)
        subprocess.run(["git", "add", "params.yaml", ".dvc/config", "dvc.yaml", ".gitignore"], check=True)
        subprocess.run(["git", *who, "commit", "-qm", "without the code"], check=True)
    before = {path: path.read_bytes() for path in project.iterdir() if path.is_file()}
    with overridden({"teach.epochs": 2}) as copy:
        assert copy is not None
        assert copy.versioned is versioned
        assert Path.cwd() == copy.root != project
        assert Path("params.yaml").read_text() == TEXT.replace("epochs: 4", "epochs: 2")
        # Uncommitted code, and data that git ignores.
        assert Path("code/x.py").read_text() == "x = 1\n"
        assert Path("mydata/1.png").read_text() == "pixels"
        # A stage keeps its states with the project, by the name of the changes, and its runs in the project's database.
        assert project_root() == project
        assert kept() == project / ".atp/experiments" / copy.name
        with overridden({}) as same:
            assert same is None
    assert Path.cwd() == project
    assert not {"DVC_ROOT", "DVC_EXP_NAME"} & set(os.environ)
    assert {path: path.read_bytes() for path in project.iterdir() if path.is_file()} == before
    # Without git, the copy has the only results.
    assert copy.root.exists() is not versioned


def test_what_is_not_there_cannot_be_changed(project: Path) -> None:
    with pytest.raises(InputError, match="tech"), overridden({"tech.epochs": 2}):
        pass
    assert not (project / ".dvc/tmp").exists()
