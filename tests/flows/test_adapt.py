"""The flow as its users meet it: a deployment, started, killed, cancelled and retried through Prefect's server.

Each test changes other parameters than those before it, so that there is something to do.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from atp.errors import InputError
from flows.adapt import adapt
from flows.elsewhere import run_elsewhere
from tests.clone import dvc
from tests.flows.conftest import Servers, Serving, bad_input, processes
from tests.flows.prefect_api import Prefect

TRAINING = r"atp\.stages propagate"


def begin(prefect: Prefect, project: Path, lr: float, epochs: int = 30) -> tuple[str, Path]:
    """Start a run and wait until ``propagate`` trains; the run's id and its training state."""
    overrides = {"propagate.lr": lr, "propagate.epochs": epochs, "runtime.save_every_s": 0}
    states = project / ".atp/experiments"
    before = set(states.rglob("propagate-*.pt"))
    locked = (project / "dvc.lock").read_bytes()
    run = prefect.start(overrides=overrides, until="propagate")
    new: set[Path] = set()

    def trains() -> bool:
        new.update(set(states.rglob("propagate-*.pt")) - before)
        return bool(new)

    prefect.until(trains, 120, "a training state")
    (state,) = new
    # While it runs, the user's files are as they were.
    assert (project / "params.yaml").read_text() == original(project)
    assert (project / "dvc.lock").read_bytes() == locked
    return run, state


def original(project: Path) -> str:
    return subprocess.run(
        ["git", "show", "HEAD:params.yaml"], cwd=project, capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture(autouse=True)
def nothing_left(project: Path) -> Any:
    """Whatever a test did: params.yaml is the user's again, and nothing trains on."""
    yield
    assert (project / "params.yaml").read_text() == original(project)
    assert not processes(project, r"atp\.stages|dvc ")


def test_a_full_run_shows_its_stages_and_results(
    full_run: str, served: Prefect, project: Path, servers: Servers
) -> None:
    tasks = served.tasks(full_run)
    # The images came with the clone.
    assert {name for name, state in tasks.items() if state != "Completed"} == {"data.dvc"}
    # DVC's graph, in its order, from the data to the registry.
    order = ["data.dvc", "source", "align", "dump@r01", "teach@r01", "dump@r02", "teach@r02", "split", "propagate"]
    assert [name for name in tasks if name in order] == order
    assert {"evaluate", "report", "register"} < set(tasks)
    lines = served.lines(full_run)
    assert any("propagate: 2 steps" in line for line in lines), lines
    artifacts = served.artifacts(full_run)
    for stage in ("source", "align", "teach-r01", "teach-r02", "propagate"):
        assert artifacts[f"{stage}-progress"] == 100
    assert "data:image/jpeg;base64," in artifacts["predictions"]
    assert "propagate" in artifacts["miou"]
    assert "use " in artifacts["recommendation"]
    assert "r02: threshold" in artifacts["pseudo-labels"]
    # The addresses that `make ui` prints are those of the flow's runs and of the experiment.
    prefect, mlflow = (line.split()[1] for line in servers.said.splitlines()[:2])
    assert served.run(full_run)["flow_id"] == prefect.rpartition("/")[2]
    assert artifacts["mlflow"].split("](")[1].startswith(mlflow.partition("?")[0] + "/")
    # The link leads to the run that holds the stages' runs.
    run_id = artifacts["mlflow"].split("/runs/")[1].split(")")[0]
    found = httpx.get(f"{servers.mlflow}/api/2.0/mlflow/runs/get", params={"run_id": run_id}).json()["run"]
    assert found["info"]["status"] == "FINISHED"
    assert found["info"]["run_name"] == served.run(full_run)["name"]
    # DVC takes what the flow made for its own.
    assert all(
        reasons == ["always changed"] for reasons in json.loads(dvc(project, "status", "--json", "dvc.yaml")).values()
    )


def test_a_run_with_nothing_to_do_is_cached(served: Prefect, project: Path) -> None:
    run = served.start()
    assert served.ended(run)["name"] == "Completed"
    # `register` looks for itself whether the registry has the model already.
    assert {name for name, state in served.tasks(run).items() if state != "Cached"} == {"register"}


def test_bad_input_is_not_retried_and_says_its_line(served: Prefect, project: Path) -> None:
    with bad_input(project):
        run = served.start(until="align")
        state = served.ended(run)
    assert state["type"] == "FAILED"
    assert "runtime.device: no such device" in state["message"]
    assert served.tasks(run)["align"] == "BadInput"
    # Mended and retried, the same run continues; what was done is not done again.
    served.retry(run)
    served.until(lambda: served.run(run)["state"]["name"] != "AwaitingRetry", 60, "the retry")
    assert served.ended(run)["name"] == "Completed", served.lines(run)
    assert served.tasks(run)["source"] == "Cached"


def test_wrong_parameters_end_with_one_line(project: Path, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    state = adapt.fn(overrides={"teach.epoch": 2})
    assert (state.type, state.name) == ("FAILED", "BadInput")
    assert "teach.epoch" in (state.message or "")
    with (
        temporary_settings({PREFECT_API_URL: servers.prefect.url}),
        pytest.raises(InputError, match="stage/nowhere: no such deployment"),
    ):
        run_elsewhere("stage/nowhere", "source", (), {}, {}, force=True)


def test_a_killed_stage_and_a_killed_dvc_are_retried_and_resume(served: Prefect, project: Path) -> None:
    run, state = begin(served, project, 0.011)
    # The first of them: the others are its children, which send figures to MLflow and load images.
    os.kill(min(processes(project, TRAINING)), signal.SIGKILL)
    served.until(lambda: not processes(project, TRAINING), 10, "the stage to end")
    saved = state.stat().st_mtime_ns
    served.until(lambda: state.stat().st_mtime_ns > saved, 60, "the training to continue")
    os.kill(min(processes(project, r"^\S+ -m dvc .*repro .*propagate")), signal.SIGKILL)
    ended = served.ended(run)
    assert ended["name"] == "Completed", served.lines(run)
    # Its results are an experiment, with the run's parameters; the stages after it wait to be run.
    name = ended["message"].split()[-1]
    assert f"--apply {name}" in ended["message"]
    assert name in dvc(project, "exp", "list")
    shown = json.loads(dvc(project, "params", "diff", "--json", "HEAD", name))
    assert shown["params.yaml"]["propagate.lr"]["new"] == 0.011
    assert not list((project / ".dvc/tmp/flow").iterdir())
    assert continued(served, run) == 2


def test_ctrl_c_and_a_killed_flow_leave_nothing_behind_and_can_be_retried(
    served: Prefect, serving: Serving, project: Path
) -> None:
    run, state = begin(served, project, 0.013)
    began = time.monotonic()
    assert serving.end() == 130
    assert time.monotonic() - began < 15
    assert serving.log.read_text().splitlines()[-1].startswith("flows.serve: SIGINT: no longer served; its run has")
    assert not processes(project, r"atp\.stages|flows\.|dvc ")
    assert served.run(run)["state"]["type"] == "CRASHED"
    serving.start()
    retry(served, run)
    saved = state.stat().st_mtime_ns
    served.until(lambda: state.stat().st_mtime_ns > saved, 60, "the training to continue")
    (flow,) = {parent(pid) for pid in processes(project, r"flows\.child")}
    os.kill(flow, signal.SIGKILL)
    served.until(lambda: not processes(project, r"atp\.stages|flows\.child|dvc "), 10, "the training to end")
    assert served.ended(run)["type"] == "CRASHED"
    # A killed flow may not have sent its last lines.
    before = continued(served, run)
    retry(served, run)
    assert served.ended(run)["name"] == "Completed", served.lines(run)
    assert continued(served, run) == before + 1


def test_one_run_at_a_time_and_cancel_ends_its_children_within_ten_seconds(
    served: Prefect, project: Path, servers: Servers
) -> None:
    first, state = begin(served, project, 0.015, epochs=1000)
    second = served.start(until="source")
    beside = subprocess.run(
        [sys.executable, "-m", "flows.adapt", "--until", "source"],
        cwd=project,
        env=servers.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert beside.returncode == 2
    assert any(line.startswith("error: ") and "another process runs" in line for line in beside.stderr.splitlines())
    assert served.run(second)["state"]["type"] in ("SCHEDULED", "PENDING")
    served.cancel(first)
    served.until(lambda: not processes(project, "propagate"), 10, "the children to end")
    # What was trained is kept for whoever wants it again.
    assert state.exists()
    assert served.ended(first)["type"] == "CANCELLED"
    assert served.ended(second)["name"] == "Completed"


def continued(served: Prefect, run: str) -> int:
    """How often a run's training has continued."""
    return sum("propagate: continues at step" in line for line in served.lines(run))


def retry(served: Prefect, run: str) -> None:
    served.retry(run)
    served.until(lambda: served.run(run)["state"]["type"] not in ("CRASHED", "SCHEDULED"), 60, "the retry")


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
