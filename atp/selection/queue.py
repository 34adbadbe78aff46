"""A grid in DVC's queue: put there once, run by DVC's worker, and brought back when that was killed."""

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from atp.errors import InputError
from atp.runner.project import project_root
from atp.selection.grid import Cell, override
from atp.selection.repository import HERE, Whose, complaint, open_repository

logger = logging.getLogger(__name__)

WORKERS = Path(".dvc/tmp/exps/celery")
"""Where DVC's workers leave their process ids."""
PAUSE_S = 0.5
"""Between two that are put while workers work."""
START_S = 10.0
"""In which a worker that was started is there."""


def enqueue(cells: Sequence[Cell], whose: Whose = HERE, jobs: int = 0) -> dict[str, list[str]]:
    """Put what is neither finished nor on its way into DVC's queue, in the given order.

    Args:
        jobs: so many of DVC's workers are started as soon as as many wait, and the others are put while they work; 0
            starts none.

    Returns:
        Names by what became of them: ``finished``, ``running``, ``queued`` before, ``failed``, or ``new``.

    Raises:
        InputError: DVC cannot, or no git repository.
    """
    found: dict[str, list[str]] = {state: [] for state in ("finished", "running", "queued", "failed", "new")}
    started = False
    with open_repository() as (repo, prefix):
        untracked = repo.scm.untracked_files()
        if untracked:
            more = f" and {len(untracked) - 1} more" if len(untracked) > 1 else ""
            logger.warning(
                "%s%s: not in git, and so not in the experiments; git add what they need", untracked[0], more
            )
        _bring_back(repo, [cell.name for cell in cells])
        done, waiting = whose.finished(repo, prefix), whose.unfinished(repo, prefix)
        for cell in cells:
            state = "finished" if cell.name in done else waiting.get(cell.name, ("new",))[0]
            found[state].append(cell.name)
            if state == "new":
                _put(repo, prefix, cell)
            if jobs and not started and len(found["queued"]) + len(found["new"]) >= jobs:
                started = True
                if not _working():
                    _start_workers(jobs)
            elif started:
                # DVC's lock on the queue is held while one is put, and is what a worker needs for the next one.
                time.sleep(PAUSE_S)
        for name in done:
            # What it kept in case it was killed.
            shutil.rmtree(Path(".atp/experiments") / name, ignore_errors=True)
    return found


def _put(repo: Any, prefix: Path, cell: Cell) -> None:
    """Put one into the queue; again while a worker takes another one out of it, or another command of DVC's runs."""
    from dvc.lock import LockError

    for wait_s in (0.1, 0.3, 1.0, 3.0, 10.0, 30.0):
        with suppress(LockError):
            return _put_once(repo, prefix, cell)
        time.sleep(wait_s)
    return _put_once(repo, prefix, cell)


def _put_once(repo: Any, prefix: Path, cell: Cell) -> None:
    changes = []
    for name, value in cell.values.items():
        file, _, dotted = name.rpartition(":")
        changes.append(f"{(prefix / (file or 'params.yaml')).as_posix()}:{override(dotted, value)}")
    repo.experiments.run(
        targets=[(prefix / cell.target).as_posix()],
        params=changes,
        queue=True,
        name=cell.name,
        # Imported data come from the cache; the place that they were imported from is not in the temporary clone.
        allow_missing=True,
    )


def _bring_back(repo: Any, names: Sequence[str]) -> None:
    """Take out of the queue what was killed in the middle, so that it can be queued again.

    DVC goes on to call it running when its worker was killed with it. Stages that it finished are in DVC's cache, and
    the one that was killed continues from its last state: nothing is computed twice.
    """
    queue = repo.experiments.celery_queue
    active = {entry.name: entry for entry in queue.iter_active()}
    killed = False
    for name in names:
        entry = active.get(name)
        if entry is None or _working():
            continue
        killed = True
        logger.info("%s: was killed; it is queued again", name)
        # A stage dies with its executor, of which without a worker nobody would collect the result. Once it is
        # forgotten DVC calls the experiment failed; of a zombie it would go on to call it running.
        clone = _clone(queue, entry)
        queue.proc.remove(entry.stash_rev, force=True)
        queue.kill([name], force=True)
        _delete(clone)
    behind = [entry.name for entry in queue.iter_queued() if entry.name in names] if killed else []
    if behind:
        # They come after these again: before, they would begin anew the stage that was killed, if they need it too.
        queue.remove(behind)
    failed = {entry.name: entry for entry, _ in queue.iter_failed()}
    for name in names:
        entry = failed.get(name)
        # One that a stage ended with a reason would end so again.
        if entry is not None and not complaint(queue, entry):
            clone = _clone(queue, entry)
            queue.remove([name])
            _delete(clone)


def _clone(queue: Any, entry: Any) -> Path | None:
    """The temporary clone that a killed experiment leaves behind."""
    info = Path(queue.get_infofile_path(entry.stash_rev))
    root = Path(json.loads(info.read_text())["root_dir"]) if info.is_file() else None
    return root if root and root.is_relative_to(Path(".dvc/tmp/exps").resolve()) else None


def _delete(clone: Path | None) -> None:
    if clone is not None:
        shutil.rmtree(clone, ignore_errors=True)


def _working() -> bool:
    """Whether a worker of DVC's queue lives."""
    files = sorted((project_root() / WORKERS).glob("dvc-exp-worker-*.json"))
    return any(_alive(json.loads(file.read_text()).get("pid"), "queue-worker") for file in files)


def _alive(pid: int | None, word: str) -> bool:
    """Whether a process lives and is what it should be: after a restart of the machine its number may be another's."""
    if pid is None:
        return False
    try:
        return word in " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return False


def say(name: str, line: str) -> None:
    """Show a line that an experiment printed."""
    logger.info("%s: %s", name, line)


def work(
    cells: Sequence[Cell],
    whose: Whose = HERE,
    *,
    jobs: int = 1,
    every_s: float = 3.0,
    told: Callable[[str, str], None] = say,
    left: Callable[[Collection[str], Mapping[str, str]], None] = lambda names, failed: None,
) -> dict[str, str]:
    """Let DVC's workers run what is queued, and show what the experiments print, until all ended.

    The workers go on when this process is ended.

    Args:
        jobs: experiments at a time; each then has its share of the cores.
        told: is given the name and each line that an experiment printed.
        left: is given the names of those that have not ended, and of those that failed with the reason, whenever an
            experiment began or ended.

    Returns:
        Names of those that failed, and why.
    """
    names = {cell.name for cell in cells}
    logs: dict[str, Log] = {}
    shown: set[str] = set()
    while True:
        with open_repository() as (repo, prefix):
            waiting = {name: entry for name, entry in whose.unfinished(repo, prefix).items() if name in names}
            unended = [name for name, (state, *_) in waiting.items() if state != "failed"]
            failed = {name: why for name, (state, _, why) in waiting.items() if state == "failed"}
            shown.update(unended)
            _find_logs(repo.experiments.celery_queue, [cell for cell in cells if cell.name in shown], logs)
        for log in logs.values():
            log.show(told)
        left(unended, failed)
        if not unended:
            return failed
        if not _working():
            # Those alone that have not ended: one that failed would be tried for ever.
            enqueue([cell for cell in cells if cell.name in unended], whose, jobs)
            if not _working():
                _start_workers(jobs)
        time.sleep(every_s)


def withdraw(cells: Sequence[Cell], whose: Whose = HERE) -> None:
    """Take out of the queue what has not begun."""
    with open_repository() as (repo, prefix):
        waiting = whose.unfinished(repo, prefix)
        names = [cell.name for cell in cells if waiting.get(cell.name, ("",))[0] == "queued"]
        if names:
            repo.experiments.celery_queue.remove(names)


@dataclass
class Log:
    """What an experiment prints, and how far it was shown."""

    name: str
    path: Path
    shown: int = 0

    def show(self, told: Callable[[str, str], None]) -> None:
        """What has been printed since, in whole lines."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            file.seek(self.shown)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self.shown += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            if line.strip() and not line.endswith("didn't change, skipping"):
                told(self.name, line)


def _find_logs(queue: Any, cells: Sequence[Cell], logs: dict[str, Log]) -> None:
    """Where those experiments that have begun print to, in the order of the cells.

    Args:
        logs: of each revision in the queue; is added to.
    """
    entries = {entry.name: entry for entry in (*queue.iter_active(), *(done.entry for done in queue.iter_done()))}
    for entry in (entries[cell.name] for cell in cells if cell.name in entries):
        process = queue.proc.get(entry.stash_rev)
        if entry.stash_rev not in logs and process and process.stdout:
            logs[entry.stash_rev] = Log(entry.name, project_root() / process.stdout)


def _start_workers(jobs: int) -> None:
    """Workers that end by themselves when the queue is empty."""
    # Its stages are started as `python` and `dvc`, which must be this environment's, activated or not.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    if jobs > 1:
        # Trainings side by side that each take all cores are slower than one after the other.
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))
        environment.setdefault("OMP_WAIT_POLICY", "passive")
    # A file and no pipe: the worker inherits it, and a pipe would be read until that ends.
    with tempfile.TemporaryFile("w+") as said:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", "queue", "start", "--jobs", str(jobs)],
            cwd=project_root(),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode:
            said.seek(0)
            raise InputError(f"dvc queue start: {' '.join(said.read().split())}")
    deadline = time.monotonic() + START_S
    while not _working() and time.monotonic() < deadline:
        time.sleep(0.1)
