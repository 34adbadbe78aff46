"""Workers of DVC's queue: as many as were asked for, and others in place of those that are stuck."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from atp.selection import queue, repository
from atp.selection.grid import Cell
from atp.selection.repository import Whose


@pytest.mark.parametrize(("running", "jobs", "started"), [(0, 1, [1]), (1, 1, []), (1, 2, [2]), (2, 1, [])])
def test_as_many_workers_as_jobs(running: int, jobs: int, started: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def opened() -> Iterator[tuple[Any, Path]]:
        yield SimpleNamespace(scm=SimpleNamespace(untracked_files=list)), Path()

    found: list[int] = []
    monkeypatch.setattr(queue, "open_repository", opened)
    for name in ("_bring_back", "_put"):
        monkeypatch.setattr(queue, name, lambda *arguments: None)
    monkeypatch.setattr(queue, "_working", lambda: running)
    monkeypatch.setattr(queue, "_start_workers", found.append)
    monkeypatch.setattr(queue, "PAUSE_S", 0)
    nothing: Any = SimpleNamespace(finished=lambda *arguments: {}, unfinished=lambda *arguments: {})
    queue.enqueue([Cell(name, {}) for name in "abc"], nothing, jobs)
    assert found == started


@pytest.mark.parametrize("begins", ["queued", "running"])
def test_an_experiment_that_moves_on_while_it_is_looked_for_is_found(
    begins: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = ["queued", "running", "failed"]
    entry, now = SimpleNamespace(name="a", stash_rev="1234567", baseline_rev="head"), [states.index(begins)]

    def found(state: str) -> list[Any]:
        there = states[now[0]] == state
        now[0] = min(now[0] + 1, 2)
        return [entry] if there else []

    monkeypatch.setattr(repository, "reason", lambda *arguments: "why")
    celery = SimpleNamespace(
        iter_queued=lambda: found("queued"),
        iter_active=lambda: found("running"),
        iter_failed=lambda: [(each, None) for each in found("failed")],
    )
    repo = SimpleNamespace(
        experiments=SimpleNamespace(celery_queue=celery), scm=SimpleNamespace(get_rev=lambda: "head")
    )
    assert Whose().unfinished(repo, Path()) == {"a": ("failed", "1234567", "why")}


@pytest.mark.parametrize(
    ("status", "executor", "ended"), [({}, False, True), ({"w": [1]}, False, False), ({}, True, False)]
)
def test_workers_that_live_on_but_run_nothing_are_ended(
    status: dict[str, list[int]], executor: bool, ended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which would otherwise be waited for forever."""
    worker = subprocess.Popen(["sleep", "60"])
    runs = subprocess.Popen(["sleep", "60"])
    monkeypatch.setattr(queue, "_alive", lambda pid, word: pid == runs.pid and word == "exec-run" and executor)
    polls = iter([True, True, True, False])
    process = SimpleNamespace(returncode=None, pid=runs.pid)
    celery = SimpleNamespace(
        proc=SimpleNamespace(processes=lambda: [("a", process)]),
        worker_status=lambda: status,
        iter_active=list,
        iter_done=list,
    )

    @contextmanager
    def opened() -> Iterator[tuple[Any, Path]]:
        yield SimpleNamespace(experiments=SimpleNamespace(celery_queue=celery)), Path()

    monkeypatch.setattr(queue, "open_repository", opened)
    monkeypatch.setattr(queue, "STUCK_S", -1.0)
    monkeypatch.setattr(queue, "_workers", lambda: [worker.pid] if worker.poll() is None else [])
    monkeypatch.setattr(queue, "enqueue", lambda *arguments: {})
    monkeypatch.setattr(queue, "_start_workers", lambda jobs: None)
    whose: Any = SimpleNamespace(unfinished=lambda *arguments: {"a": ("running", "", "")} if next(polls) else {})
    try:
        assert queue.work([Cell("a", {})], whose, every_s=0.2) == {}
        assert (worker.poll() is not None) == ended
    finally:
        for each in (worker, runs):
            each.kill()
            each.wait()


@pytest.mark.parametrize(
    ("protocol", "tracked", "allowed"), [("local", True, False), ("local", False, True), ("s3", True, True)]
)
def test_a_result_that_the_cache_lacks_is_made_again_unless_data_come_from_elsewhere(
    protocol: str, tracked: bool, allowed: bool
) -> None:
    """With ``allow_missing``, DVC skips a stage whose result dvc.lock names and the cache lacks."""
    given: dict[str, Any] = {}
    origin = SimpleNamespace(protocol=protocol, fs_path="assets/streets")
    stages = [SimpleNamespace(is_import=True, deps=[origin]), SimpleNamespace(is_import=False, deps=[])]
    repo: Any = SimpleNamespace(
        index=SimpleNamespace(stages=stages),
        scm=SimpleNamespace(is_tracked=lambda path: tracked),
        experiments=SimpleNamespace(run=lambda **arguments: given.update(arguments)),
    )
    queue._put(repo, Path(), Cell("a", {}))
    assert given["allow_missing"] == allowed
