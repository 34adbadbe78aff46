"""Workers of DVC's queue: as many as were asked for, also beside one that an earlier command left."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from atp.selection import queue
from atp.selection.grid import Cell


@pytest.mark.parametrize(("running", "jobs", "started"), [(0, 1, [1]), (1, 1, []), (1, 2, [2]), (2, 1, [])])
def test_as_many_workers_as_jobs(running: int, jobs: int, started: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def repository() -> Iterator[tuple[Any, Path]]:
        yield SimpleNamespace(scm=SimpleNamespace(untracked_files=list)), Path()

    found: list[int] = []
    monkeypatch.setattr(queue, "open_repository", repository)
    for name in ("_bring_back", "_put"):
        monkeypatch.setattr(queue, name, lambda *arguments: None)
    monkeypatch.setattr(queue, "_working", lambda: running)
    monkeypatch.setattr(queue, "_start_workers", found.append)
    monkeypatch.setattr(queue, "PAUSE_S", 0)
    nothing: Any = SimpleNamespace(finished=lambda *arguments: {}, unfinished=lambda *arguments: {})
    queue.enqueue([Cell(name, {}) for name in "abc"], nothing, jobs)
    assert found == started
