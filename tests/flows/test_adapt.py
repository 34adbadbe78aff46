"""The flow as its users meet it: a deployment, started, killed, cancelled and retried through Prefect's server.

Each test changes other parameters than those before it, so that there is something to do.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.clone import dvc
from tests.flows.conftest import Servers, bad_input, processes
from tests.flows.prefect_api import Prefect

TRAINING = r"atp\.stages propagate"
LONG = {"propagate.epochs": 60, "runtime.save_every_s": 0}
"""Long enough to be killed in the middle, with a state to continue from."""


def begin(prefect: Prefect, project: Path, lr: float) -> str:
    """Start a run and wait until ``propagate`` trains."""
    run = prefect.start(overrides={**LONG, "propagate.lr": lr}, until="propagate")
    state = project / ".atp/state"
    prefect.until(lambda: any(state.glob("propagate-*.pt")), 120, "a training state")
    return run


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


def test_everything_is_cached_after_dvc_repro(served: Prefect, project: Path) -> None:
    run = served.start()
    assert served.ended(run)["name"] == "Completed"
    tasks = served.tasks(run)
    # The registry behind this server is new, so that `register` has something to do.
    assert {name for name, state in tasks.items() if state != "Cached"} == {"register"}
    assert list(tasks).index("source") < list(tasks).index("align")
    assert list(tasks).index("dump@r01") < list(tasks).index("teach@r01") < list(tasks).index("dump@r02")


def test_a_change_runs_what_depends_on_it_and_shows_the_results(
    served: Prefect, project: Path, servers: Servers
) -> None:
    run = served.start(overrides={"propagate.epochs": 2})
    state = served.ended(run)
    assert state["name"] == "Completed", served.lines(run)
    tasks = served.tasks(run)
    assert tasks["split"] == "Cached"
    assert {tasks[name] for name in ("propagate", "evaluate", "report", "register")} == {"Completed"}
    assert any("propagate: 10 steps" in line for line in served.lines(run)), served.lines(run)
    artifacts = served.artifacts(run)
    assert artifacts["propagate-progress"] == 100
    assert "data:image/jpeg;base64," in artifacts["predictions"]
    assert "propagate" in artifacts["miou"]
    assert "r02: threshold" in artifacts["pseudo-labels"]
    # The link leads to the run that holds the stages' runs.
    run_id = artifacts["mlflow"].split("/runs/")[1].split(")")[0]
    found = httpx.get(f"{servers.mlflow}/api/2.0/mlflow/runs/get", params={"run_id": run_id}).json()["run"]
    assert found["info"]["status"] == "FINISHED"
    assert found["info"]["run_name"] == served.run(run)["name"]


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


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"until": "proppagate"}, "is it propagate"),
        ({"pipeline": "other.yaml"}, "other.yaml: no such pipeline"),
        ({"overrides": {"teach.epoch": 2}}, "teach.epoch"),
        ({"places": {"align": "stage/nowhere"}, "force": True, "until": "align"}, "stage/nowhere: no such deployment"),
    ],
)
def test_wrong_parameters_end_with_one_line(served: Prefect, parameters: dict[str, Any], said: str) -> None:
    run = served.start(**parameters)
    state = served.ended(run)
    assert state["type"] == "FAILED"
    assert said in state["message"]


def test_a_killed_stage_is_retried_and_resumes(served: Prefect, project: Path) -> None:
    run = begin(served, project, 0.011)
    # The first of them: the others are its children, which send figures to MLflow and load images.
    os.kill(min(processes(project, TRAINING)), signal.SIGKILL)
    assert served.ended(run)["name"] == "Completed", served.lines(run)
    assert any("propagate: continues at step" in line for line in served.lines(run))


def test_a_killed_dvc_is_retried_and_resumes(served: Prefect, project: Path) -> None:
    run = begin(served, project, 0.012)
    os.kill(min(processes(project, r"^\S+ -m dvc .*repro .*propagate")), signal.SIGKILL)
    assert served.ended(run)["name"] == "Completed", served.lines(run)
    assert any("propagate: continues at step" in line for line in served.lines(run))


def test_a_killed_flow_leaves_nothing_behind_and_can_be_retried(served: Prefect, project: Path) -> None:
    run = begin(served, project, 0.013)
    (flow,) = {parent(pid) for pid in processes(project, r"flows\.child")}
    os.kill(flow, signal.SIGKILL)
    served.until(lambda: not processes(project, r"atp\.stages|flows\.child|dvc "), 10, "the training to end")
    assert (project / "params.yaml").read_text() == original(project)
    assert served.ended(run)["type"] == "CRASHED"
    served.retry(run)
    served.until(lambda: served.run(run)["state"]["type"] not in ("CRASHED", "SCHEDULED"), 60, "the retry")
    assert served.ended(run)["name"] == "Completed", served.lines(run)
    assert any("propagate: continues at step" in line for line in served.lines(run))


def test_cancel_ends_every_child_within_ten_seconds(served: Prefect, project: Path) -> None:
    run = begin(served, project, 0.014)
    served.cancel(run)
    start = time.monotonic()
    served.until(lambda: not processes(project, r"atp\.stages|flows\.child|dvc "), 10, "the children to end")
    assert served.ended(run)["type"] == "CANCELLED", time.monotonic() - start
    # What was trained is kept for whoever wants it again.
    again = served.start(overrides={**LONG, "propagate.lr": 0.014}, until="propagate")
    assert served.ended(again)["name"] == "Completed"
    assert any("propagate: continues at step" in line for line in served.lines(again))


def test_a_second_run_waits_and_one_without_server_says_who_runs(
    served: Prefect, project: Path, servers: Servers
) -> None:
    first = begin(served, project, 0.015)
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
    assert served.ended(first)["name"] == "Completed"
    assert served.ended(second)["name"] == "Completed"


def test_dvc_agrees_that_what_the_flow_made_is_up_to_date(served: Prefect, project: Path) -> None:
    assert served.ended(served.start())["name"] == "Completed"
    assert "didn't change" in dvc(project, "repro", "--single-item", "propagate")


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
