"""What putting experiments into DVC's queue does to the working folder."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from atp.selection.queue import _emptied, _fill_again

LOCK = "schema: '2.0'\nstages:\n  source:\n    cmd: python\n"
KILLED = """
import os, signal
from pathlib import Path
from atp.selection.queue import _emptied
with _emptied([Path("dvc.lock"), Path("paper/dvc.lock")]):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dvc.lock").write_text(LOCK)


def test_a_lock_is_empty_for_a_moment() -> None:
    with _emptied([Path("dvc.lock"), Path("paper/dvc.lock")]):
        assert "stages: {}" in Path("dvc.lock").read_text()
    assert Path("dvc.lock").read_text() == LOCK
    assert not Path("paper/dvc.lock").exists()


def test_killed_in_that_moment_the_next_command_brings_it_back() -> None:
    done = subprocess.run([sys.executable, "-c", KILLED], check=False)
    assert done.returncode == -signal.SIGKILL
    assert Path("dvc.lock").read_text() != LOCK
    _fill_again()
    assert Path("dvc.lock").read_text() == LOCK


def test_what_was_written_since_stays() -> None:
    subprocess.run([sys.executable, "-c", KILLED], check=False)
    Path("dvc.lock").write_text("newer")
    _fill_again()
    assert Path("dvc.lock").read_text() == "newer"
    Path("dvc.lock").write_text(LOCK)
    _fill_again()
    assert Path("dvc.lock").read_text() == LOCK
