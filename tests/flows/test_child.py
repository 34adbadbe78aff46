"""params.yaml holds a run's changes while a command runs, and nothing else ever."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from atp.errors import InputError
from flows.child import CHANGED, ORIGINAL, PARAMS, changed_params, put_back

TEXT = "# mine\nteach: {epochs: 4, lr: 0.02}\n"
SHOW = "print(open('params.yaml').read())"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    PARAMS.write_text(TEXT)
    return tmp_path


def command(overrides: dict[str, object], *arguments: str, parent: int | None = None) -> list[str]:
    by = ["--parent", str(parent or os.getpid())]
    return [sys.executable, "-m", "flows.child", *by, "--set", json.dumps(overrides), *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def test_the_command_sees_the_changes_and_the_file_is_put_back() -> None:
    done = subprocess.run(
        command({"teach.epochs": 2}, sys.executable, "-c", SHOW),
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == {"teach": {"epochs": 2, "lr": 0.02}}
    assert PARAMS.read_text() == TEXT
    assert not ORIGINAL.exists()


@pytest.mark.parametrize("code", [0, 2, 7])
def test_the_command_decides_on_the_exit_code(code: int) -> None:
    done = subprocess.run(
        command({}, sys.executable, "-c", f"raise SystemExit({code})"), env=environment(), check=False
    )
    assert done.returncode == code


def test_nothing_is_run_for_somebody_who_has_ended_meanwhile() -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    done = subprocess.run(
        command({}, "touch", "ran", parent=ended.pid), env=environment(), stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 1
    assert "has ended" in done.stderr
    assert not Path("ran").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_end_it_ends_the_command_and_puts_the_file_back(number: signal.Signals) -> None:
    script = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
    process = subprocess.Popen(command({"teach.epochs": 2}, sys.executable, "-c", script), env=environment())
    wait_for(Path("pid"))
    process.send_signal(number)
    assert process.wait(20) == 128 + signal.SIGTERM
    assert PARAMS.read_text() == TEXT
    with pytest.raises(ProcessLookupError):
        os.kill(int(Path("pid").read_text()), 0)


def test_killed_it_leaves_what_put_back_needs() -> None:
    script = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
    process = subprocess.Popen(command({"teach.epochs": 2}, sys.executable, "-c", script), env=environment())
    wait_for(Path("pid"))
    process.kill()
    process.wait()
    assert PARAMS.read_text() != TEXT
    put_back()
    assert PARAMS.read_text() == TEXT


def test_an_edit_made_meanwhile_stands() -> None:
    with changed_params({"teach.epochs": 2}):
        PARAMS.write_text("teach: {epochs: 9}\n")
    assert PARAMS.read_text() == "teach: {epochs: 9}\n"
    assert not ORIGINAL.exists()
    assert not CHANGED.exists()


def test_without_changes_the_file_is_not_touched() -> None:
    before = PARAMS.stat().st_mtime_ns
    with changed_params({}):
        assert PARAMS.stat().st_mtime_ns == before
    assert PARAMS.stat().st_mtime_ns == before


def test_what_is_not_there_cannot_be_changed() -> None:
    with pytest.raises(InputError, match="tech"), changed_params({"tech.epochs": 2}):
        pass
    assert PARAMS.read_text() == TEXT


def wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < end
        time.sleep(0.05)
