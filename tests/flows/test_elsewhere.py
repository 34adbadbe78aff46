"""A stage in a second clone, as on another machine: work pools, workers, and a DVC remote that both share."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from hashlib import md5
from pathlib import Path

import pytest

from atp.files import digest
from flows.adapt import main
from tests.clone import dvc, git
from tests.flows.conftest import Servers, running
from tests.flows.prefect_api import Prefect

MODEL = "runs/propagate/model.safetensors"


@pytest.fixture(scope="module")
def clones(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The pipeline's clone, and another of the same commit with nothing but what git has."""
    project, root = finished, tmp_path_factory.mktemp("machines")
    dvc(project, "remote", "add", "--default", "shared", str(root / "remote"))
    git(project, "commit", "-qam", "Share results")
    dvc(project, "push", "--quiet")
    git(root, "clone", "-q", str(project), "other")
    return project, root / "other"


@pytest.fixture(scope="module")
def pools(clones: tuple[Path, Path], servers: Servers) -> Iterator[Prefect]:
    """What prefect.yaml describes, and a worker in each clone."""
    project, _ = clones
    prefect = [sys.executable, "-m", "prefect", "--no-prompt"]

    def run(*arguments: str) -> None:
        done = subprocess.run(
            [*prefect, *arguments], cwd=project, env=servers.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    with ExitStack() as stack:
        for pool in ("pipelines", "gpu"):
            run("work-pool", "create", pool, "--type", "process")
        run("deploy", "--all")
        for clone, pool in zip(clones, ("pipelines", "gpu"), strict=True):
            worker = [*prefect, "worker", "start", "--pool", pool, "--limit", "1"]
            environment = {**servers.environment, "ATP_CLONE": str(clone), "PREFECT_WORKER_QUERY_SECONDS": "1"}
            stack.enter_context(running(worker, clone, environment, clone.parent / f"{pool}.log"))
        yield replace(servers.prefect, deployment="adapt/pool")


def test_a_stage_runs_where_it_is_told_and_leaves_its_result_here(
    clones: tuple[Path, Path], pools: Prefect, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = clones
    before = digest(here / MODEL)
    run = pools.start(until="propagate", overrides={"propagate.epochs": 2}, places={"propagate": "stage/gpu"})
    ended = pools.ended(run, 300)
    assert ended["name"] == "Completed", pools.lines(run)
    assert pools.tasks(run)["split"] == "Cached"
    # It got what the stage reads, and nothing of the source or of the labels.
    assert cached(there, next((here / "data/target/images").iterdir()))
    assert not cached(there, next((here / "data/source/images").iterdir()))
    assert not cached(there, next((here / "data/target/labels").iterdir()))
    # DVC takes the result for its own: with the run's parameters there is nothing to do.
    assert digest(here / MODEL) == before
    monkeypatch.chdir(here)
    name = ended["message"].split()[-1]
    monkeypatch.setattr("sys.argv", ["flows.adapt", "--apply", name])
    main()
    assert capsys.readouterr().out == f"applied: {name}\n"
    assert digest(here / MODEL) != before
    assert cached(there, here / MODEL)
    again = pools.start(until="propagate")
    assert pools.ended(again)["name"] == "Completed"
    assert pools.tasks(again)["propagate"] == "Cached"


def cached(clone: Path, file: Path) -> bool:
    """Whether a clone's cache has a file's contents."""
    found = md5(file.read_bytes()).hexdigest()
    return (clone / ".dvc/cache/files/md5" / found[:2] / found[2:]).is_file()


def test_another_commit_is_refused_in_one_line(clones: tuple[Path, Path], pools: Prefect) -> None:
    here, there = clones
    git(here, "commit", "-q", "--allow-empty", "-m", "newer")
    try:
        run = pools.start(until="propagate", overrides={"propagate.epochs": 3}, places={"*": "stage/gpu"})
        state = pools.ended(run)
    finally:
        git(here, "reset", "-q", "--soft", "HEAD~1")
    assert f"{there}: this clone is at" in state["message"]
    assert pools.tasks(run)["propagate"] == "BadInput"
