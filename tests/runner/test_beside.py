"""MLflow in a process of its own. Each case is a process, since one with PyTorch's threads must not be forked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from atp.runner.beside import Sampler
from atp.runner.tracking import Tracker

pytestmark = pytest.mark.usefixtures("mlflow_imported")

BEGIN = """
import os, signal, sys
from pathlib import Path
from atp.params import load_params
from atp.errors import exit_codes
from atp.runner import beside
beside.start_ahead()
assert "mlflow" not in sys.modules
child = beside._ahead[0][0].pid
with exit_codes(), beside.open_stage_tracker("align", load_params(), enabled=True) as tracker:
    tracker.log(3, {"loss": 0.5})
"""


def run(project: Path, code: str, uri: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri or f"sqlite:///{project}/mlflow.db"}
    command = [sys.executable, "-c", BEGIN + code]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


def tracked(project: Path) -> Run:
    """The stage's run."""
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    experiment = client.get_experiment_by_name("atp")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id], "tags.`atp.stage` = 'align'")
    return found


def test_what_a_stage_tells_arrives_with_the_machines_load(project: Path) -> None:
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("system_metrics_s: 0", "system_metrics_s: 0.1"))
    done = run(
        project,
        "    import time; time.sleep(0.5)\n"
        "    tracker.artifacts(Path('params.yaml'))\n"
        "    tracker.finish(Path('runs/align'), 'abc')\n",
    )
    assert done.returncode == 0, done.stderr
    found = tracked(project)
    assert found.info.status == "FINISHED"
    assert found.data.metrics["loss"] == 0.5
    assert 0 <= found.data.metrics["system/cpu_utilization_percentage"] <= 100
    assert found.data.metrics["system/system_memory_usage_percentage"] > 0
    assert found.data.tags["atp.fingerprint"] == "abc"
    assert list((project / "mlartifacts").rglob(f"{found.info.run_id}/artifacts/params.yaml"))


def test_a_stage_that_fails_leaves_a_failed_run(project: Path) -> None:
    assert "ZeroDivisionError" in run(project, "    1 / 0\n").stderr
    assert tracked(project).info.status == "FAILED"


def test_a_server_that_does_not_work_is_told_in_one_line(project: Path) -> None:
    done = run(project, "", uri="http://localhost:1")
    assert done.returncode == 2
    assert done.stderr.startswith("error: MLflow at http://localhost:1 does not work")
    assert done.stderr.count("\n") == 1


def test_training_goes_on_without_mlflow_s_process(project: Path) -> None:
    code = """
    os.kill(child, signal.SIGKILL)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    tracker.log(4, {"loss": 0.4})
    tracker.log(5, {"loss": 0.3})
"""
    done = run(project, code)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("going on without") == 1
    # The parameters here ask for no samples of the machine's load.
    assert set(tracked(project).data.metrics) <= {"loss"}


def test_a_driver_that_fails_costs_the_samples_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def collect_metrics(self) -> None:
            raise OSError("the driver is gone")

    monkeypatch.setattr("atp.runner.beside._monitor", lambda run_id: Broken())
    sampler = Sampler(Tracker(), 5.0)
    assert 4.0 < (sampler.due_in_s() or 0) <= 5.0
    sampler.sample()
    assert caplog.messages == ["MLflow: no system metrics: the driver is gone"]
    assert sampler.due_in_s() is None


@pytest.mark.parametrize(("arguments", "complaint"), [(["tech"], "no such stage"), ([], "no such stage")])
def test_an_unknown_stage(project: Path, arguments: list[str], complaint: str) -> None:
    command = [sys.executable, "-m", "atp.stages", *arguments]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert complaint in done.stderr


def test_a_stage_goes_on_without_a_process_that_was_killed_before_it_began(project: Path) -> None:
    code = """
beside.start_ahead()
child = beside._ahead[-1][0]
child.kill()
child.join()
with exit_codes(), beside.open_stage_tracker("dump", load_params(), enabled=True) as tracker:
    tracker.log(1, {"loss": 0.5})
    print("done")
"""
    done = run(project, code)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"
    assert done.stderr == "MLflow's process has ended; going on without\n"
