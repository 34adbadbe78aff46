"""A command ends with whoever asked for it, and decides on the exit code."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments: str, parent: int | None = None) -> list[str]:
    by = ["--parent", str(parent or os.getpid())]
    return [sys.executable, "-m", "flows.child", *by, *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.mark.parametrize("code", [0, 2, 7])
def test_the_command_decides_on_the_exit_code(code: int) -> None:
    done = subprocess.run(command(sys.executable, "-c", f"raise SystemExit({code})"), env=environment(), check=False)
    assert done.returncode == code


def test_nothing_is_run_for_somebody_who_has_ended_meanwhile() -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    done = subprocess.run(
        command("touch", "ran", parent=ended.pid), env=environment(), stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 1
    assert "has ended" in done.stderr
    assert not Path("ran").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_end_it_ends_the_command(number: signal.Signals) -> None:
    script = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
    process = subprocess.Popen(command(sys.executable, "-c", script), env=environment())
    wait_for(Path("pid"))
    process.send_signal(number)
    assert process.wait(20) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int(Path("pid").read_text()), 0)


def wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < end
        time.sleep(0.05)
