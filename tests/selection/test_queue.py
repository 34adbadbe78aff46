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
