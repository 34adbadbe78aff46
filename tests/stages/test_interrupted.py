"""Ctrl-C ends a stage and a command with one line and code 130: no traceback, nothing lost, nothing half-written."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from atp.runner.process import STATE
from tests.stages.launch import RunStage, forkserver, set_params, stage_process

KEPT = f"its training state is kept in {STATE}, and the same command continues from it"


def as_from_a_terminal(project: Path, stage: str, arguments: tuple[str, ...]) -> None:
    """A stage in a process group of its own, which Ctrl-C reaches as a whole, with half a second for each step."""
    os.setsid()
    # A shell that runs the tests in the background has Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    stage_process(project, stage, arguments, 0.5)


def wait_until(there: Callable[[], object], alive: Callable[[], object]) -> None:
    deadline = time.monotonic() + 90
    while not there():
        assert alive(), "ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def states(project: Path) -> list[Path]:
    return list((project / STATE).glob("[!.]*"))


def hidden(project: Path) -> list[Path]:
    """What is written under a temporary name."""
    return [path for folder in ("runs", STATE) for path in (project / folder).rglob(".*")]


def interrupt(project: Path, stage: str, *arguments: str, when: Callable[[], object]) -> tuple[int | None, list[str]]:
    process = forkserver().Process(target=as_from_a_terminal, args=(project, stage, arguments))
    process.start()
    assert process.pid is not None
    wait_until(when, process.is_alive)
    os.killpg(process.pid, signal.SIGINT)
    process.join()
    return process.exitcode, (project / "output.txt").read_text().splitlines()


def test_a_stage_keeps_its_state_and_continues(adapted: Path, tmp_path: Path, run_stage: RunStage) -> None:
    project = Path(shutil.copytree(adapted, tmp_path / "project"))
    expected = (project / "runs/align/model.safetensors").read_bytes()
    shutil.rmtree(project / "runs/align")
    # With a data loading process, which Ctrl-C reaches as well.
    set_params(project, "runtime", workers=1)
    code, lines = interrupt(project, "align", when=lambda: states(project))
    assert code == 130
    assert lines == [f"align: interrupted; {KEPT}"]
    assert not (project / "runs/align").exists()
    assert not hidden(project)
    ended = run_stage(project, "align")
    assert "align: continues at step" in ended.output
    assert (project / "runs/align/model.safetensors").read_bytes() == expected


def test_a_stage_whose_data_loading_process_is_killed_says_so_and_continues(
    adapted: Path, tmp_path: Path, run_stage: RunStage
) -> None:
    project = Path(shutil.copytree(adapted, tmp_path / "project"))
    expected = (project / "runs/align/model.safetensors").read_bytes()
    shutil.rmtree(project / "runs/align")
    set_params(project, "runtime", workers=1)
    process = forkserver().Process(target=stage_process, args=(project, "align", (), 0.5))
    process.start()
    wait_until(lambda: states(project), process.is_alive)
    for child in psutil.Process(process.pid).children():
        child.kill()
    process.join()
    assert process.exitcode == 1
    (line,) = [line for line in (project / "output.txt").read_text().splitlines() if line.startswith("error: ")]
    assert line.startswith("error: a data loading process was killed")
    assert "Traceback" not in (project / "output.txt").read_text()
    ended = run_stage(project, "align")
    assert "align: continues at step" in ended.output
    assert (project / "runs/align/model.safetensors").read_bytes() == expected


def test_a_round_s_labels(adapted: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(adapted, tmp_path / "project"))
    code, lines = interrupt(project, "dump", "--round", "r02", when=lambda: states(project))
    assert (code, lines[-1]) == (130, f"dump@r02: interrupted; {KEPT}")
    assert not hidden(project)


def test_before_there_is_a_state(project: Path) -> None:
    code, lines = interrupt(project, "source", when=(project / "ready").exists)
    assert (code, lines[-1]) == (130, "source: interrupted; the same command starts it again")
    assert "Traceback" not in "".join(lines)
    assert not (project / "runs/source").exists()


@contextmanager
def started(
    project: Path, *command: str, environment: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=project,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        yield process
    finally:
        # A failed test must not wait for what it failed to end.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_several_processes_end_with_one_line(adapted: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(adapted, tmp_path / "project"))
    shutil.rmtree(project / "runs/teach/r01")
    set_params(project, "runtime", processes=2)
    set_params(project, "teach", epochs=1000)
    with started(project, "-m", "atp.stages", "teach", "--round", "r01") as process:
        wait_until(lambda: states(project), lambda: process.poll() is None)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == f"teach@r01: interrupted; {KEPT}\n"
    assert not (project / "runs/teach/r01").exists()
    assert not hidden(project)


INTERRUPTS = """
import atexit, os, signal, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "{name}":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT) if "{name}" == "exit" else None)
"""


@pytest.mark.parametrize(("name", "code"), [("ruamel.yaml", -signal.SIGINT), ("exit", 2)])
def test_while_modules_are_imported_and_at_the_exit(tmp_path: Path, name: str, code: int) -> None:
    """There is no line yet, or it is printed; never a traceback."""
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTS.format(name=name))
    with started(tmp_path, "-m", "atp.stages", "report", environment={"PYTHONPATH": str(tmp_path)}) as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert said.count("\n") == (code == 2), said


def test_a_command(adapted: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for index in range(1000):
        (images / f"{index:03}.png").symlink_to(adapted / "data/target/images/00.png")
    out = tmp_path / "out"
    command = ("-m", "atp.cli", "predict", str(images), str(out), "--model", str(adapted / "runs/propagate"))
    with started(tmp_path, *command) as process:
        wait_until(lambda: list(out.rglob("*.jpg")), lambda: process.poll() is None)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "atp predict: interrupted; the same command starts it again"
    assert "Traceback" not in said
    assert not list(out.rglob(".*"))
