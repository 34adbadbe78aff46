"""Runs and figures in MLflow: where they hang, what a kill, a wrong address and a dying server do."""

import json
import logging
import math
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from safetensors.numpy import save_file

from atp.errors import InputError
from atp.params import Params, load_params
from atp.runner.tracking import EXPERIMENT, Tracker, flatten, open_client, open_tracker, patience, quotable, store_lock
from atp.runs import models

OFF = ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK")

pytestmark = pytest.mark.usefixtures("mlflow_imported")

# Three processes that open a tracker at the same moment on a database that is not there yet.
RACE = """
import os, sys
import mlflow.store.tracking.sqlalchemy_store, mlflow.store.model_registry.sqlalchemy_store
from atp.params import load_params
from atp.runner.tracking import open_tracker
params = load_params()
children = []
for stage in ("align", "teach@r01", "split"):
    child = os.fork()
    if child == 0:
        with open_tracker(stage, params, enabled=True) as tracker:
            tracker.log(1, {"loss": 1.0})
        os._exit(0)
    children.append(child)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


@pytest.fixture(scope="session")
def race(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the database that three processes made at once. Not to be changed."""
    folder = tmp_path_factory.mktemp("race")
    (folder / "params.yaml").write_text((Path(__file__).parents[2] / "params.yaml").read_text())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    done = subprocess.run(
        [sys.executable, "-c", RACE], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def params(race: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Parameters, in a working folder with a database as a first stage leaves it."""
    for name in ("params.yaml", "mlflow.db"):
        (tmp_path / name).write_bytes((race / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    for variable in ("MLFLOW_TRACKING_URI", "ATP_PARENT_RUN_ID"):
        monkeypatch.delenv(variable, raising=False)
    return load_params()


def runs(query: str = "") -> list[Run]:
    client = open_client()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], query))


def stage_runs(stage: str) -> list[Run]:
    return runs(f"tags.`atp.stage` = '{stage}'")


def test_three_processes_at_once_on_a_new_database(race: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(race)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    found = {run.data.tags.get("atp.stage", "parent"): run for run in runs()}
    assert set(found) == {"parent", "align", "teach@r01", "split"}
    assert len(runs()) == 4, "they share one parent"
    parent = found.pop("parent").info.run_id
    for run in found.values():
        assert run.data.tags["mlflow.parentRunId"] == parent
        assert (run.info.status, run.data.metrics) == ("FINISHED", {"loss": 1.0})


def test_a_stage_has_its_parameters_figures_and_files(params: Params, tmp_path: Path) -> None:
    (tmp_path / "table.txt").write_text("x")
    with open_tracker("propagate", params, enabled=True) as tracker:
        for step in (1, 2, 3):
            tracker.log(step, {"loss": 1 / step, "broken": math.nan})
        tracker.artifacts(tmp_path / "table.txt")
        tracker.finish(Path("runs/propagate"), "abc")
    (run,) = stage_runs("propagate")
    assert run.data.params["propagate.ema"] == "0.99"
    assert run.data.params["training.seed"] == "0"
    assert (run.data.tags["atp.folder"], run.data.tags["atp.fingerprint"]) == ("runs/propagate", "abc")
    client = open_client()
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["table.txt"]
    assert client.get_run(tracker.parent_id).data.params["align.alpha"] == "1.0"


def make_models(folder: Path, params: Params) -> None:
    """A finished pipeline's models, as far as MLflow is told of them."""
    for number, (name, path) in enumerate(models(params.rounds, black_box=False).items()):
        (folder / path).mkdir(parents=True)
        made_by = json.dumps({"fingerprint": f"print of {name}"})
        save_file({"weight": np.zeros(1)}, folder / path / "model.safetensors", {"made_by": made_by})
        (folder / path / "history.csv").write_text(f"step,loss\n1,9\n2,{number}.5\n")
        (folder / path / "evidence.json").write_text(json.dumps({"after": {"scale_iou": number / 10}}))
    miou = {"source": 25.0, "align": 45.5, "teach": 49.0, "propagate": 52.0, "batchnorm_only": 43.0}
    (folder / "runs/evaluate").mkdir()
    (folder / "runs/evaluate/metrics.json").write_text(json.dumps({"miou": miou}))
    (folder / "data.dvc").write_text("outs:\n- md5: 0123456789abcdef0123456789abcdef.dir\n  path: data\n")


def test_models_are_ranked_by_what_was_measured_of_them(params: Params, tmp_path: Path) -> None:
    make_models(tmp_path, params)
    # All but source, which DVC had in its cache; align twice, as by `dvc repro --force`.
    for stage in ("align", "align", "teach@r01", "propagate", "evaluate"):
        with open_tracker(stage, params, enabled=True) as tracker:
            tracker.finish(Path("runs", *stage.split("@")), "")
    client = open_client()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    found = client.search_logged_models(
        [experiment.experiment_id],
        "metrics.miou > 30",
        datasets=[{"dataset_name": "test"}],
        order_by=[{"field_name": "metrics.miou", "ascending": False, "dataset_name": "test"}],
    )
    assert [model.name for model in found] == ["propagate", "teach@r01", "align"]
    assert len(client.search_logged_models([experiment.experiment_id])) == 4
    digest = "0123456789abcdef0123456789abcdef.dir"
    figures = {(metric.key, metric.dataset_name): (metric.value, metric.dataset_digest) for metric in found[2].metrics}
    assert figures == {
        ("miou", "test"): (45.5, digest),
        ("loss", "target"): (1.5, digest),
        ("evidence_scale_iou", "target"): (0.1, digest),
    }
    assert found[2].params["align.lr"] == str(params.align.lr if params.align else None)
    assert found[2].tags["atp.folder"] == "runs/align"
    (run,) = stage_runs("evaluate")
    read = {(each.dataset.name, each.tags[0].value, each.dataset.digest) for each in run.inputs.dataset_inputs}
    assert read == {("target", "target", digest), ("test", "test", digest)}
    assert len(client.get_run(run.info.run_id).inputs.model_inputs) == 4
    (made,) = client.get_run(found[0].source_run_id).outputs.model_outputs
    assert made.model_id == found[0].model_id


def test_the_pipelines_run_names_all_data_sets(race: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(race)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (parent,) = runs("tags.`atp.pipeline` != ''")
    found = {(each.dataset.name, each.dataset.digest) for each in parent.inputs.dataset_inputs}
    assert found == {("source", "unknown"), ("target", "unknown"), ("test", "unknown")}


def test_what_mlflow_cannot_take_ends_no_stage(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ConnectionError("the server is gone")

    monkeypatch.setattr(MlflowClient, "log_inputs", fails)
    monkeypatch.setattr(MlflowClient, "search_logged_models", fails)
    make_models(tmp_path, params)
    with open_tracker("propagate", params, enabled=True) as tracker:
        tracker.finish(Path("runs/propagate"), "")
    assert [line.partition(":")[0] for line in caplog.messages] == [
        "MLflow does not accept data; continuing without it"
    ] * 2
    assert stage_runs("propagate")[0].info.status == "FINISHED"


def test_again_a_new_run_below_the_same_parent(params: Params) -> None:
    parents = set()
    for _ in range(2):
        with open_tracker("align", params, enabled=True) as tracker:
            parents.add(tracker.parent_id)
    assert len(parents) == 1
    assert len(stage_runs("align")) == 3, "one from the race"


def test_other_parameters_are_another_pipeline(params: Params) -> None:
    others = params.model_copy(update={"training": params.training.model_copy(update={"seed": 1})})
    elsewhere = params.model_copy(update={"runtime": params.runtime.model_copy(update={"device": "cpu"})})
    parents = []
    for each in (params, others, elsewhere):
        with open_tracker("align", each, enabled=True) as tracker:
            parents.append(tracker.parent_id)
    assert parents[0] != parents[1]
    assert parents[0] == parents[2], "where it runs is no parameter of the result"


def test_a_failed_stage_continues_its_run(params: Params) -> None:
    def fail() -> None:
        with open_tracker("propagate", params, enabled=True) as tracker:
            tracker.log(1, {"loss": 2.0})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    (run,) = stage_runs("propagate")
    assert (run.info.status, run.data.metrics) == ("FAILED", {"loss": 2.0})
    assert open_client().get_run(run.data.tags["mlflow.parentRunId"]).info.status == "FAILED"
    with open_tracker("propagate", params, enabled=True) as tracker:
        assert tracker.run_id == run.info.run_id
        assert open_client().get_run(tracker.parent_id).info.status == "RUNNING"
    (run,) = stage_runs("propagate")
    assert run.info.status == "FINISHED"


def test_a_killed_stage_continues_its_run(params: Params) -> None:
    killed = open_tracker("propagate", params, enabled=True)
    before = killed.__enter__().run_id
    with open_tracker("propagate", params, enabled=True) as tracker:
        assert tracker.run_id == before


def test_the_pipelines_run_can_be_given(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    client = open_client()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    given = client.create_run(experiment.experiment_id).info.run_id
    monkeypatch.setenv("ATP_PARENT_RUN_ID", given)
    with open_tracker("align", params, enabled=True) as tracker:
        assert tracker.parent_id == given
    assert client.get_run(given).info.status == "RUNNING", "who started it ends it"
    monkeypatch.setenv("ATP_PARENT_RUN_ID", "0" * 32)
    with pytest.raises(InputError, match="does not work"), open_tracker("align", params, enabled=True):
        pass


def test_other_processes_of_the_launcher_log_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open_tracker("align", load_params(Path(__file__).parents[2] / "params.yaml"), enabled=False) as tracker:
        tracker.log(1, {"loss": 1.0})
        tracker.artifacts(tmp_path)
        tracker.finish(tmp_path, "")
    assert not list(tmp_path.iterdir())


class NotFound(BaseHTTPRequestHandler):
    """A server, but not MLflow's."""

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def other_server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), NotFound) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def refused(uri: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    began = time.monotonic()
    with pytest.raises(InputError) as caught:
        open_client()
    assert time.monotonic() - began < 20
    message = str(caught.value)
    assert message.startswith(f"MLflow at {uri.replace('me:secret', '***')} does not work (")
    assert message.endswith("; check MLFLOW_TRACKING_URI")
    assert "\n" not in message
    return message


def test_wrong_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed_port: int, other_server: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.db").write_text("no database " * 100)
    assert "refused" in refused(f"http://127.0.0.1:{closed_port}", monkeypatch)
    assert "refused" in refused(f"postgresql://me:secret@127.0.0.1:{closed_port}/mlflow", monkeypatch)
    assert "404" in refused(other_server, monkeypatch)
    assert "not a database" in refused(f"sqlite:///{tmp_path}/text.db", monkeypatch)
    assert "File exists" in refused(f"sqlite:///{tmp_path}/text.db/mlflow.db", monkeypatch)
    refused("nonsense://x", monkeypatch)


class Server:
    """MLflow's client of a server that comes and goes."""

    def __init__(self) -> None:
        self.alive = True
        self.taken: list[tuple[str, int, float]] = []
        self.asked = 0

    def log_batch(self, run_id: str, metrics: Any) -> None:
        self.answer()
        assert len(metrics) <= 1000
        self.taken += [(metric.key, metric.step, metric.value) for metric in metrics]

    def set_tag(self, *_: str) -> None:
        self.answer()

    def log_artifact(self, *_: str) -> None:
        self.answer()

    def set_terminated(self, *_: str) -> None:
        self.answer()

    def answer(self) -> None:
        self.asked += 1
        if not self.alive:
            raise ConnectionError("the server is gone\nwith details")


def tracker_of(server: Server, every_s: float = 0.0) -> Tracker:
    return Tracker(server, "run", "parent", every_s)  # type: ignore[arg-type]


def test_a_dying_server_ends_no_stage_and_a_returning_one_misses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    tracker = tracker_of(server)
    for step in range(9):
        server.alive = not 3 <= step < 6
        tracker.log(step, {"loss": step / 2})
    assert server.taken == [("loss", step, step / 2) for step in range(9)]
    assert [record.message for record in caplog.records] == [
        "MLflow does not accept data; continuing without it: the server is gone"
    ]


def test_a_server_that_stays_away_is_asked_ever_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        now = 0.0
        monotonic = time = staticmethod(lambda: Clock.now)

    monkeypatch.setattr("atp.runner.tracking.time", Clock)
    server = Server()
    server.alive = False
    tracker = Tracker(server, "run", "parent", 5.0, _sent_at=0.0)  # type: ignore[arg-type]
    asked_at = []
    for second in range(1400):
        Clock.now = second
        before = server.asked
        tracker.log(second, {"loss": 1.0})
        asked_at += [second] * (server.asked - before)
    assert asked_at == [5, 15, 35, 75, 155, 315, 615, 915, 1215], "twice as long each time, up to five minutes"


def test_at_the_end_nothing_that_cannot_be_sent_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    tracker = tracker_of(server, every_s=60)
    server.alive = False
    tracker.log(1, {"loss": 1.0, "share": 0.5})
    tracker.artifacts(tmp_path / "table.json")
    tracker.finish(tmp_path, "abc")
    tracker.end("FINISHED")
    assert "MLflow: 2 metrics could not be sent and are lost" in caplog.messages


def test_a_real_client_of_a_dead_server_is_waited_for_briefly(closed_port: int) -> None:
    tracker = Tracker(MlflowClient(f"http://127.0.0.1:{closed_port}"), "run", "parent", every_s=0)
    began = time.monotonic()
    tracker.log(1, {"loss": 1.0})
    tracker.end("FINISHED")
    assert tracker.failures == 4, "figures twice, and the end of two runs"
    assert time.monotonic() - began < 5


def test_many_figures_go_in_batches() -> None:
    server = Server()
    tracker = tracker_of(server, every_s=60)
    for step in range(2500):
        tracker.log(step, {"loss": 0.0})
    tracker.flush()
    assert (len(server.taken), server.asked) == (2500, 3)


def test_what_the_user_set_for_requests_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    with patience(5, 1):
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_stages_keep_their_own_log_lines(params: Params) -> None:
    """MLflow's and Alembic's set-up of logging leaves ours alone."""
    open_client()
    assert logging.getLogger("atp.runner.tracking").isEnabledFor(logging.WARNING)
    assert not logging.getLogger("alembic.runtime.migration").isEnabledFor(logging.INFO)


def test_telemetry_is_off_before_mlflow_is_imported(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "class Spy:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'mlflow':\n"
        "            sys.exit(os.environ['MLFLOW_DISABLE_TELEMETRY'] + os.environ['DO_NOT_TRACK'])\n"
        "sys.meta_path.insert(0, Spy())\n"
        "from atp.runner.tracking import open_client\n"
        "open_client()\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in OFF}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "truetrue"


def test_flatten() -> None:
    assert flatten({"a": {"b": 1, "c": [1, 2]}, "d": "x", "e": None}) == {
        "a.b": "1", "a.c": "[1, 2]", "d": "x", "e": "null"
    }  # fmt: skip


def test_what_cannot_be_quoted_is_refused() -> None:
    assert quotable("teach@r01") == "teach@r01"
    with pytest.raises(InputError, match="cannot be looked up"):
        quotable("x' or '1'='1")


def test_projects_that_share_a_server_share_its_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        with store_lock("register"):
            pass
    (lock,) = tmp_path.rglob("*.lock")
    assert lock.name.endswith(".register.lock")


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 0))
    with pytest.raises(InputError, match=r"mlflow\.db: the disk is full; free some space"):
        open_client()
    assert not (tmp_path / "mlflow.db").exists()


def test_a_broken_database_is_one_line(race: Path, tmp_path: Path) -> None:
    """MLflow logs a traceback of it besides."""
    project = Path(shutil.copytree(race, tmp_path / "project"))
    with closing(sqlite3.connect(project / "mlflow.db")) as connection:
        connection.execute("DROP TABLE runs")
    code = (
        "from atp.errors import exit_codes\nfrom atp.params import load_params\n"
        "from atp.runner.tracking import open_tracker\n"
        "with exit_codes(), open_tracker('align', load_params(), enabled=True):\n    pass\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: MLflow at sqlite:///")
    assert done.stderr.count("\n") == 1
