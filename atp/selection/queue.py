"""A grid in DVC's queue: queued once, run by DVC's worker, and queued again after the worker was killed."""

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
"""Folder in which DVC's workers write their process ids."""
PAUSE_S = 0.5
"""Seconds between queueing two experiments while workers run."""
START_S = 10.0
"""Seconds within which a started worker must appear."""
STUCK_S = 60.0
"""Seconds without output after which it is asked whether any experiment runs at all."""


def enqueue(cells: Sequence[Cell], whose: Whose = HERE, jobs: int = 0) -> dict[str, list[str]]:
    """Queue the cells that are neither finished nor already queued, in the given order.

    Args:
        jobs: number of DVC workers, started once as many cells are queued; the rest is queued while they run. 0 starts
            none.

    Returns:
        Names by state: ``finished``, ``running``, ``queued`` before, ``failed``, or ``new``.

    Raises:
        InputError: DVC fails, or there is no git repository.
    """
    found: dict[str, list[str]] = {state: [] for state in ("finished", "running", "queued", "failed", "new")}
    started = False
    with open_repository() as (repo, prefix):
        untracked = repo.scm.untracked_files()
        if untracked:
            more = f" and {len(untracked) - 1} more" if len(untracked) > 1 else ""
            logger.warning(
                "%s%s: not in git, so missing in the experiments; git add what they need", untracked[0], more
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
                # One that an earlier command started may be all that is left of its workers.
                if _working() < jobs:
                    _start_workers(jobs)
            elif started:
                # Queueing holds the lock that a worker needs to take the next experiment.
                time.sleep(PAUSE_S)
        for name in done:
            # State kept in case it was killed.
            shutil.rmtree(Path(".atp/experiments") / name, ignore_errors=True)
    return found


def _put(repo: Any, prefix: Path, cell: Cell) -> None:
    """Queue one experiment; retry while a worker or another DVC command holds the lock."""
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
        # Imported data come from the cache if their origin is not in the temporary clone. Otherwise not, since DVC then
        # also skips a stage whose result dvc.lock names and the cache lacks, as in a fresh clone.
        allow_missing=not _origins_are_tracked(repo),
    )


def _origins_are_tracked(repo: Any) -> bool:
    """Whether the origins of all imported data are in git, and so in a clone."""
    origins = [dep for stage in repo.index.stages if stage.is_import for dep in stage.deps]
    return all(dep.protocol == "local" and repo.scm.is_tracked(dep.fs_path) for dep in origins)


def _bring_back(repo: Any, names: Sequence[str]) -> None:
    """Remove killed experiments from the queue, so that they can be queued again.

    DVC still reports an experiment as running if its worker was killed too. Its finished stages are in DVC's cache and
    the killed stage resumes from its last state, so nothing is computed twice.
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
        # A stage dies with its executor, whose result is lost without a worker. Reaping the executor lets DVC mark the
        # experiment as failed; a zombie would still count as running.
        clone = _clone(queue, entry)
        queue.proc.remove(entry.stash_rev, force=True)
        queue.kill([name], force=True)
        _delete(clone)
    behind = [entry.name for entry in queue.iter_queued() if entry.name in names] if killed else []
    if behind:
        # Queued experiments follow these again: run first, they would restart the killed stage if they share it.
        queue.remove(behind)
    failed = {entry.name: entry for entry, _ in queue.iter_failed()}
    for name in names:
        entry = failed.get(name)
        # An experiment that failed with a stage's error would fail again.
        if entry is not None and not complaint(queue, entry):
            clone = _clone(queue, entry)
            queue.remove([name])
            _delete(clone)


def _clone(queue: Any, entry: Any) -> Path | None:
    """The temporary clone left behind by a killed experiment."""
    info = Path(queue.get_infofile_path(entry.stash_rev))
    root = Path(json.loads(info.read_text())["root_dir"]) if info.is_file() else None
    return root if root and root.is_relative_to(Path(".dvc/tmp/exps").resolve()) else None


def _delete(clone: Path | None) -> None:
    if clone is not None:
        shutil.rmtree(clone, ignore_errors=True)


def _working() -> int:
    """Number of running workers of DVC's queue."""
    return len(_workers())


def _workers() -> list[int]:
    """Process ids of the running workers."""
    files = sorted((project_root() / WORKERS).glob("dvc-exp-worker-*.json"))
    pids = [json.loads(file.read_text()).get("pid") for file in files]
    return [pid for pid in pids if _alive(pid, "queue-worker")]


def _alive(pid: int | None, word: str) -> bool:
    """Whether a process runs and is the expected one: after a reboot its id may belong to another."""
    if pid is None:
        return False
    try:
        return word in " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return False


def say(name: str, line: str) -> None:
    """Print a line of an experiment's output."""
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
    """Let DVC's workers run the queued experiments and show their output until all have ended.

    The workers continue if this process ends.

    Args:
        jobs: number of parallel experiments, which share the cores.
        told: called with an experiment's name and each line of its output.
        left: called with the names of unfinished experiments, and of failed ones with the reason, whenever an
            experiment starts or ends.

    Returns:
        Names of failed experiments, with the reason.
    """
    names = {cell.name for cell in cells}
    logs: dict[str, Log] = {}
    shown: set[str] = set()
    moved = time.monotonic()
    while True:
        with open_repository() as (repo, prefix):
            queue = repo.experiments.celery_queue
            waiting = {name: entry for name, entry in whose.unfinished(repo, prefix).items() if name in names}
            unended = [name for name, (state, *_) in waiting.items() if state != "failed"]
            failed = {name: why for name, (state, _, why) in waiting.items() if state == "failed"}
            shown.update(unended)
            _find_logs(queue, [cell for cell in cells if cell.name in shown], logs)
            if sum(log.show(told) for log in logs.values()):
                moved = time.monotonic()
            elif unended and time.monotonic() - moved > STUCK_S:
                if not _executing(queue):
                    _end_workers()
                moved = time.monotonic()
        left(unended, failed)
        if not unended:
            return failed
        if not _working():
            # Only unfinished ones: a failed one would be retried forever.
            enqueue([cell for cell in cells if cell.name in unended], whose, jobs)
            if not _working():
                _start_workers(jobs)
        time.sleep(every_s)


def withdraw(cells: Sequence[Cell], whose: Whose = HERE) -> None:
    """Remove cells that have not started from the queue."""
    with open_repository() as (repo, prefix):
        waiting = whose.unfinished(repo, prefix)
        names = [cell.name for cell in cells if waiting.get(cell.name, ("",))[0] == "queued"]
        if names:
            repo.experiments.celery_queue.remove(names)


@dataclass
class Log:
    """An experiment's output, and how much of it was shown."""

    name: str
    path: Path
    shown: int = 0

    def show(self, told: Callable[[str, str], None]) -> int:
        """Show new output, in whole lines; returns the number of its bytes."""
        if not self.path.is_file():
            return 0
        with self.path.open("rb") as file:
            file.seek(self.shown)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self.shown += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            if line.strip() and not line.endswith("didn't change, skipping"):
                told(self.name, line)
        return len(whole)


def _executing(queue: Any) -> bool:
    """Whether an experiment runs, or a worker says that it prepares or ends one."""
    running = (process for _, process in queue.proc.processes() if process.returncode is None)
    # On a busy machine a worker may not answer within the second that it is given.
    return any(_alive(process.pid, "exec-run") for process in running) or any(
        any(queue.worker_status().values()) for _ in range(3)
    )


def _end_workers() -> None:
    """End workers that live on but take no experiment, so that others are started.

    By kombu's code, a worker may read a message before it is written whole, and then the experiment is lost.
    """
    for pid in _workers():
        logger.warning("DVC's worker (process %d) runs nothing; another is started", pid)
        with suppress(psutil.Error):
            psutil.Process(pid).kill()


def _find_logs(queue: Any, cells: Sequence[Cell], logs: dict[str, Log]) -> None:
    """Find the log files of started experiments, in the order of the cells.

    Args:
        logs: logs by revision in the queue; updated in place.
    """
    entries = {entry.name: entry for entry in (*queue.iter_active(), *(done.entry for done in queue.iter_done()))}
    for entry in (entries[cell.name] for cell in cells if cell.name in entries):
        process = queue.proc.get(entry.stash_rev)
        if entry.stash_rev not in logs and process and process.stdout:
            logs[entry.stash_rev] = Log(entry.name, project_root() / process.stdout)


def _start_workers(jobs: int) -> None:
    """Start workers, which exit when the queue is empty."""
    # Stages run `python` and `dvc`, which must be this environment's, even if it is not activated.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    if jobs > 1:
        # Parallel trainings that each use all cores are slower than sequential ones.
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))
        environment.setdefault("OMP_WAIT_POLICY", "passive")
    # A file, not a pipe: the worker inherits it, and a pipe would stay open until the worker ends.
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
