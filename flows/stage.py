"""One stage as a child process: ``dvc repro --single-item``, its output as log, its progress as an artifact."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from atp.training.progress import share_done
from flows.child import GRACE_S

BAD_INPUT, CACHED = "BadInput", "Cached"
"""Names of states: failures that a retry cannot fix, and cached results."""

SKIPPED = ("didn't change, skipping", "is cached - skipping run, checking out outputs")
"""DVC's messages for a stage whose result exists already."""

ROOT = Path(__file__).resolve().parents[1]
"""Folder of the running code, which a child in another pipeline's folder would not find."""

HINTS = ("To track the changes with git", "git add ", "To enable auto staging", "dvc config ", "Use `dvc push`")
"""Beginnings of DVC's hints for terminal users, left out of the log."""


@contextmanager
def child(command: Sequence[str], **variables: str) -> Iterator["subprocess.Popen[str]"]:
    """Start a command in its own process group; the group ends with this context."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH")]
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.child", "--parent", str(os.getpid()), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **variables},
    )
    try:
        yield process
        process.wait()
    finally:
        _end(process)
        assert process.stdout is not None
        process.stdout.close()


def _end(process: "subprocess.Popen[str]") -> None:
    # Not by `poll()`: the leader may have ended while others of its group still run.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(2 * GRACE_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def dvc(*arguments: str) -> list[str]:
    """A DVC command that waits for others on the same repository."""
    return [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]


@dataclass
class Output:
    """A command's output, forwarded line by line to the log of the current run.

    Attributes:
        skipped: DVC found an existing result.
        bad_input: a stage ended with the exit code of bad input.
        complaint: the first error line.
        last: the last line.
    """

    skipped: bool = False
    bad_input: bool = False
    complaint: str = ""
    last: str = ""
    progress: "ProgressArtifact | None" = None

    def read(self, lines: Iterator[str]) -> None:
        """Read until the command closes its output."""
        logger = get_run_logger()
        for line in map(str.rstrip, lines):
            if not line or line.strip().startswith(HINTS):
                continue
            logger.info(line)
            self.last = line
            if self.progress:
                self.progress.read(line)
            self.skipped |= line.endswith(SKIPPED)
            self.bad_input |= line.endswith("exited with 2")
            if line.startswith(("error: ", "ERROR: ")):
                # The stage's own error comes first and says more than DVC's.
                self.complaint = self.complaint or line.partition(" ")[2]


def reproduce(name: str, variables: Mapping[str, str], *, force: bool, pull: bool = False) -> State[Any]:
    """Run one stage if it is out of date.

    Args:
        name: DVC's address of the stage.
        variables: environment variables for the stage.
        force: run it even if it is up to date.
        pull: fetch missing inputs from DVC's remote.
    """
    flags = [*(["--force"] if force else []), *(["--pull"] if pull else [])]
    output = Output(progress=ProgressArtifact(name))
    with child(dvc("repro", "--single-item", *flags, name), **variables) as process:
        assert process.stdout is not None
        output.read(process.stdout)
    if process.returncode:
        message = output.complaint or f"{name}: DVC ended with {process.returncode}"
        return Failed(name=BAD_INPUT if output.bad_input else "Failed", message=message)
    return Completed(name=CACHED, message="unchanged") if output.skipped else Completed(message="done")


@dataclass
class ProgressArtifact:
    """A progress bar in the UI, created when a stage first reports progress."""

    stage: str
    _id: UUID | None = field(default=None, init=False)

    def read(self, line: str) -> None:
        share = share_done(line)
        if share is None:
            return
        percent = 100 * share
        if self._id is None:
            key = f"{slug(self.stage)}-progress"
            self._id = cast("UUID", create_progress_artifact(percent, key=key, description=line))
        else:
            update_progress_artifact(self._id, percent, description=line)


def slug(stage: str) -> str:
    """A stage's name as artifact key: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", stage.lower()).strip("-")
