"""A stage ends with what started it, however early that was killed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from atp.runner.parent import die_with_parent
from tests.clone import ROOT

CHILD = """
import os, sys, time
from pathlib import Path
from atp.runner.parent import die_with_parent

def write(name):
    Path(name).write_text(str(os.getpid()))

before = sys.argv[1] == "before"
if before:
    die_with_parent()
    write("started")
else:
    write("started")
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(0.01)
    die_with_parent()
time.sleep(0.5 if not before else 60)
write("survived")
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="die_with_parent does nothing where there is no parent-death signal"
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_it_ends_whether_it_asked_before_or_after_its_parent_was_killed(when: str, tmp_path: Path) -> None:
    shell = f'"{sys.executable}" -c "$0" {when} & wait'
    parent = subprocess.Popen(["sh", "-c", shell, CHILD], cwd=tmp_path, start_new_session=True)
    child = wait_for(tmp_path / "started")
    parent.kill()
    parent.wait()
    wait_for_end(child)
    assert not (tmp_path / "survived").exists()


STAGE = """
import os, sys, time
from pathlib import Path
from atp.runner.parent import watch_of_dvc

before = sys.argv[1] == "before"
if before:
    watch_of_dvc().start()
Path("started").write_text(str(os.getpid()))
if not before:
    while not Path("killed").exists():
        time.sleep(0.01)
    watch_of_dvc().start()
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="watch_of_dvc finds nothing where there is no pidfd")
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("shells", [0, 1, 2])
def test_it_ends_with_dvc_whatever_shells_are_between(when: str, shells: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", STAGE, when]
    for _ in range(shells):
        # The colon keeps any shell from becoming what it starts.
        command = ["sh", "-c", '"$0" "$@"; :', *command]
    dvc = "import os, subprocess, sys; subprocess.run(sys.argv[1:], env={**os.environ, 'DVC_STAGE': 'propagate'})"
    # This one is itself run by a stage of another project.
    outer = {**os.environ, "PYTHONPATH": str(ROOT), "DVC_STAGE": "outer"}
    parent = subprocess.Popen([sys.executable, "-c", dvc, *command], cwd=tmp_path, env=outer, start_new_session=True)
    child = wait_for(tmp_path / "started")
    parent.kill()
    parent.wait()
    (tmp_path / "killed").touch()
    wait_for_end(child)


def test_whoever_leads_a_session_or_has_a_living_parent_goes_on() -> None:
    script = "from atp.runner.parent import die_with_parent; die_with_parent(); print('on')"
    for leads in (False, True):
        done = subprocess.run(
            [sys.executable, "-c", script], start_new_session=leads, capture_output=True, text=True, check=True
        )
        assert done.stdout == "on\n"


def test_another_parent_than_the_one_named_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: type("libc", (), {"prctl": staticmethod(lambda *_: 0)}))
    with pytest.raises(SystemExit, match="has ended"):
        die_with_parent(parent=1 << 22)


def wait_for(path: Path) -> Path:
    """The process in /proc whose number a file comes to hold."""
    end = time.monotonic() + 20
    while not path.exists() or not path.read_text():
        assert time.monotonic() < end, f"no {path.name}"
        time.sleep(0.02)
    return Path("/proc") / path.read_text()


def wait_for_end(process: Path) -> None:
    """Wait until a process in /proc is gone."""
    end = time.monotonic() + 10
    while process.exists():
        assert time.monotonic() < end, "it lives on"
        time.sleep(0.02)
