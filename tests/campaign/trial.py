"""What all kinds of trials share: projects to damage, commands in them, and a verdict on what they leave."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

from tests import warm
from tests.clone import PATH, dvc, make_clone
from tests.stages.launch import ORDER, set_params
from tests.tiny_project import make_template

RIGHT, REFUSED = "right bits", "refused in one line"
WRONG, TRACEBACK, LEFTOVERS, STUCK = "wrong", "traceback", "leftovers", "stuck"
OUTCOMES = (RIGHT, REFUSED, WRONG, TRACEBACK, LEFTOVERS, STUCK)
GOOD = (RIGHT, REFUSED)

TRACE = "Traceback (most recent call last)"

place = Path("/nowhere")
"""Folder of the projects that trials copy; set by who starts them."""


@dataclass(frozen=True)
class Result:
    """How a trial ended.

    Attributes:
        faults: kills, damaged files, or hostile requests.
        note: figures, or what went wrong.
    """

    outcome: str
    faults: int = 1
    note: str = ""


class FailedError(Exception):
    """A trial that went wrong: its outcome, and what was seen."""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    output: str


class Command:
    """A command in a folder, started and not waited for; its processes are those that work in the folder."""

    def __init__(self, folder: Path, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self.folder, self.arguments = folder, arguments
        self._log = folder / f"output-{time.monotonic_ns()}.txt"
        given = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        given |= {"PATH": f"{warm.binaries()}{os.pathsep}{PATH}", "OMP_NUM_THREADS": "1", **(environment or {})}
        with self._log.open("w") as file:
            command = [f"{warm.binaries()}/python", *arguments]
            self._process = subprocess.Popen(command, cwd=folder, env=given, stdout=file, stderr=file)

    def ended(self) -> bool:
        return self._process.poll() is not None

    def wait(self, timeout_s: float = 120) -> Done:
        """Wait for the command, which must neither take too long nor show a traceback.

        Raises:
            FailedError: it does.
        """
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            end(self.folder)
            self._process.wait()
            raise FailedError(STUCK, self._about(f"not done after {timeout_s:.0f} s")) from error
        output = self._log.read_text(errors="replace")
        if TRACE in output:
            raise FailedError(TRACEBACK, self._about(output[-3000:]))
        self._log.unlink()
        return Done(code, output)

    def _about(self, text: str) -> str:
        return f"{' '.join(self.arguments)}: {text}"


def run(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None, timeout_s: float = 120) -> Done:
    return Command(folder, arguments, environment).wait(timeout_s)


def stage(folder: Path, *arguments: str) -> Done:
    """Run a stage as DVC starts it."""
    return run(folder, "-m", "atp.stages", *arguments)


def refusal(done: Done, *names: str) -> str:
    """The one line with which a command refused its input.

    Args:
        names: one of which the line must contain; the file that is damaged.

    Raises:
        FailedError: it did not, or with more lines or none.
    """
    lines = [line for line in done.output.splitlines() if line.lower().startswith(("error", "fatal"))]
    if done.code <= 0 or len(lines) != 1:
        raise FailedError(WRONG, f"exit {done.code} with {len(lines)} lines of error: {done.output[-1500:]}")
    if names and not any(name in lines[0] for name in names):
        raise FailedError(WRONG, f"does not name {' or '.join(names)}: {lines[0]}")
    return lines[0]


def processes(folder: Path) -> list[psutil.Process]:
    """All processes that work in a folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if Path(process.cwd()).is_relative_to(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def end(folder: Path) -> None:
    for process in processes(folder):
        with suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)


def check_nothing_left(folder: Path, *, states: bool = True) -> None:
    """Check that no process, temporary file or training state is left, and no lock is held.

    Args:
        states: whether finished stages must have deleted theirs.

    Raises:
        FailedError: something is.
    """
    deadline = time.monotonic() + 20
    while left := processes(folder):
        if time.monotonic() > deadline:
            names = [" ".join(process.cmdline()) for process in left]
            end(folder)
            raise FailedError(LEFTOVERS, f"processes: {names}")
        time.sleep(0.05)
    kept = [path for path in (folder / ".atp/state").glob("*") if states or path.name.startswith(".")]
    hidden = [path for path in folder.glob("runs/**/.*") if path.name != ".gitignore"]
    hidden += [path for path in folder.glob("**/*.tmp") if ".dvc" not in path.parts and ".git" not in path.parts]
    if kept or hidden:
        raise FailedError(LEFTOVERS, ", ".join(str(path.relative_to(folder)) for path in (*kept, *hidden)))


def results(project: Path) -> dict[str, bytes]:
    """The models, pseudo labels and tables of a project."""
    files = (path for path in (project / "runs").rglob("*") if path.suffix in (".safetensors", ".png", ".zst", ".csv"))
    tables = (project / "runs").rglob("table.json")
    found = [path for path in (*files, *tables) if not {"report", "register"} & set(path.parts)]
    return {str(path.relative_to(project)): path.read_bytes() for path in found}


def weights(content: bytes) -> bytes:
    """A model's file without its header, which states a digest of all that its stage could have read."""
    return content[8 + int.from_bytes(content[:8], "little") :]


def check_results(project: Path, expected: Mapping[str, bytes], *, headers: bool = True) -> None:
    """Check that a project has these files, bit for bit.

    Args:
        headers: whether those of models count; not where a file that no model depends on was damaged.

    Raises:
        FailedError: one differs or is missing.
    """
    for name, content in expected.items():
        path = project / name
        seen = weights if path.suffix == ".safetensors" and not headers else bytes
        if not path.is_file() or seen(path.read_bytes()) != seen(content):
            raise FailedError(WRONG, f"{name}: {'differs' if path.exists() else 'is missing'}")


def folder_of(stage: Sequence[str]) -> Path:
    """Where a stage of ``ORDER`` writes."""
    return Path("runs", stage[0], *stage[2:])


@cache
def adapted() -> Path:
    """The tiny project with every stage done, each with a data loading process; not to be changed."""
    project = place / "adapted"
    if not project.exists():
        make_template(project)
        set_params(project, "runtime", workers=1)
        for arguments in ORDER:
            done = stage(project, *arguments)
            assert done.code == 0, done.output
    return project


@cache
def reproduced() -> Path:
    """A clone of the repository on tiny data after ``dvc repro``; not to be changed."""
    clone = place / "clone"
    if not clone.exists():
        make_clone(clone)
        dvc(clone, "repro", "propagate")
    return clone


def copy_of(project: Path, folder: Path) -> Path:
    shutil.copytree(project, folder, symlinks=True, dirs_exist_ok=True)
    return folder
