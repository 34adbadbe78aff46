"""MLflow: one parent run per pipeline, one child run per stage, metrics in batches.

The tracking server is ``MLFLOW_TRACKING_URI`` if set, else a sqlite file in the project. A server that does not work is
reported before a stage begins; a server that fails later never ends a stage.
"""

import fcntl
import gc
import json
import logging
import os
import re
import shutil
import socket
import sqlite3
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from atp.errors import InputError
from atp.params import Params
from atp.runner.lineage import ALL, FINGERPRINT_TAG, log_data_sets, log_result, read_by
from atp.runner.project import project_root

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

EXPERIMENT = "atp"
PIPELINE_TAG = "atp.pipeline"
STAGE_TAG = "atp.stage"

PARENT_VARIABLE = "ATP_PARENT_RUN_ID"
"""Environment variable with the id of the pipeline's run, set by the process that starts the stages."""

_DATABASE_BYTES = 4_000_000
"""Free bytes that a database needs; MLflow's empty tables take a quarter of it."""

_WAITING_MAX = 100_000
"""Maximum number of metrics kept while the server does not answer; beyond it the oldest are dropped."""


def tracking_uri() -> str:
    """``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the project's root, shared by its pipelines and experiments."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project_root() / 'mlflow.db'}"


def sqlite_path(uri: str) -> Path | None:
    """The database file of a tracking URI; None if it is not sqlite."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///").split("?")[0]).resolve()


@contextmanager
def store_lock(purpose: str) -> Iterator[None]:
    """Lock among the processes of this machine that share the sqlite file or, per user, the server."""
    uri = tracking_uri()
    database = sqlite_path(uri)
    server = f"atp-{os.getuid()}-{sha256(uri.encode()).hexdigest()[:16]}"
    path = database or Path(tempfile.gettempdir()) / server
    path = path.with_name(f"{path.name}.{purpose}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def patience(timeout_s: int, retries: int) -> Iterator[None]:
    """Limit MLflow's request time, which is minutes by default; variables set by the user take precedence."""
    wanted = {"MLFLOW_HTTP_REQUEST_TIMEOUT": timeout_s, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": retries}
    ours = {name: str(value) for name, value in wanted.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


@contextmanager
def told() -> Iterator[None]:
    """Turn any MLflow exception into one line about its address.

    Raises:
        InputError: for any exception; MLflow raises many kinds for a wrong address.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise _does_not_work(error) from error


def _does_not_work(error: Exception) -> InputError:
    text = f"MLflow at {tracking_uri()} does not work ({_line(error)}); check MLFLOW_TRACKING_URI"
    return InputError(re.sub(r"//[^/@\s]*@", "//***@", text))  # an address may hold a password


def _line(error: Exception) -> str:
    """The first line of an exception's message."""
    return next((line.strip()[:200] for line in str(error).splitlines() if line.strip()), type(error).__name__)


def open_client() -> "MlflowClient":
    """A client whose database and experiment exist.

    Raises:
        InputError: the server does not answer.
    """
    # Set before the import, which reads them.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # It logs a traceback of every failure, which we tell in a line.
    logging.getLogger("mlflow.store").setLevel(logging.CRITICAL)
    uri = tracking_uri()
    with told():
        check_address(uri)
    # Garbage collection takes a third of the import time of MLflow and SQLAlchemy and finds nothing.
    gc.disable()
    try:
        import mlflow  # slow; a stage that only prints an error should not wait for it

        # Concurrent processes break the creation of a new sqlite file.
        with told(), store_lock("create"), patience(5, 1):
            mlflow.set_tracking_uri(uri)
            client = mlflow.MlflowClient(uri)
            _experiment_id(client)
    finally:
        gc.enable()
    return client


def check_address(uri: str) -> None:
    """Report a wrong address within seconds; MLflow itself would retry for minutes.

    Raises:
        OSError: no server listens there; not detected behind a proxy.
        InputError: the disk of a database is full.
    """
    database = sqlite_path(uri)
    if database is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(database.parent).free < _DATABASE_BYTES:
            raise InputError(f"{database}: the disk is full; free some space and run again")
        with closing(sqlite3.connect(database, timeout=20)) as connection:
            connection.execute("PRAGMA schema_version")
            # Refused where it cannot be written.
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
        return
    parts = urlsplit(uri)
    proxied = parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(parts.hostname or "")
    port = parts.port or {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306}.get(parts.scheme.split("+")[0])
    if parts.hostname and port and not proxied:
        socket.create_connection((parts.hostname, port), timeout=5).close()


def _experiment_id(client: "MlflowClient") -> str:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is not None:
        return str(experiment.experiment_id)
    from mlflow.exceptions import MlflowException

    database = sqlite_path(tracking_uri())
    # Artifacts go next to the database, whatever the working folder; a server has its own location.
    artifacts = (database.parent / "mlartifacts").as_uri() if database else None
    try:
        return str(client.create_experiment(EXPERIMENT, artifacts))
    except MlflowException:
        # Another machine may have created it first.
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            raise
        return str(experiment.experiment_id)


@dataclass
class Tracker:
    """Logs a stage's metrics; a no-op without a client (in processes other than the first).

    Metrics are sent every few seconds. If the server does not answer, they are kept and retried with growing intervals:
    training continues, and the stage succeeds even if nothing can be sent at its end.

    Attributes:
        client: None in processes other than the first.
        run_id, parent_id: the stage's run, and the pipeline's.
        result: logs the stage's model, or its measurements of models, if it is a stage.
        every_s: seconds between two requests while they succeed.
        failures: failed requests since the last success.
    """

    client: "MlflowClient | None" = None
    run_id: str = ""
    parent_id: str = ""
    every_s: float = 5.0
    result: Callable[[], object] | None = None
    _waiting: list[tuple[str, float, int, int]] = field(default_factory=list)
    _sent_at: float = field(default_factory=time.monotonic)
    failures: int = 0

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Log the metrics of one training step."""
        if self.client is None:
            return
        now = int(time.time() * 1000)
        self._waiting += [(name, value, now, step) for name, value in figures.items()]
        if time.monotonic() - self._sent_at >= min(self.every_s * 2**self.failures, 300):
            self.flush()

    def flush(self) -> None:
        """Send the waiting metrics."""
        if self.client is None or not self._waiting:
            return
        from mlflow.entities import Metric

        while self._waiting:
            metrics = [Metric(*entry) for entry in self._waiting[:1000]]  # the limit of one request
            if not _sent(self, partial(self.client.log_batch, self.run_id, metrics=metrics)):
                del self._waiting[:-_WAITING_MAX]
                break
            del self._waiting[:1000]
        self._sent_at = time.monotonic()

    def artifacts(self, path: Path, to: str | None = None) -> None:
        """Upload a file, or the contents of a folder."""
        if self.client is not None:
            upload = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
            _sent(self, partial(upload, self.run_id, str(path), to), timeout_s=120)

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags of the stage's run."""
        if self.client is not None:
            for key, value in tags.items():
                _sent(self, partial(self.client.set_tag, self.run_id, key, value))

    def finish(self, folder: Path, fingerprint: str) -> None:
        """Record the result, which is complete, by its folder and fingerprint."""
        self.tag({"atp.folder": str(folder), FINGERPRINT_TAG: fingerprint})
        if self.client is not None and self.result is not None:
            _sent(self, self.result)

    def end(self, status: str) -> None:
        """Send the rest and end the stage's run, and the pipeline's run unless its creator ends it.

        Under plain ``dvc repro`` no stage knows whether it is the last, so each sets its own status there.
        """
        self.flush()
        if self._waiting:
            logger.warning("MLflow: %d metrics could not be sent and are lost", len(self._waiting))
        if self.client is not None:
            for run_id in (self.run_id,) if os.environ.get(PARENT_VARIABLE) else (self.run_id, self.parent_id):
                _sent(self, partial(self.client.set_terminated, run_id, status))


def _sent(tracker: Tracker, request: Callable[[], object], timeout_s: int = 10) -> bool:
    """Whether a request succeeded; logs a warning if it did not."""
    try:
        with patience(timeout_s, 0):
            request()
    except Exception as error:  # A broken server or disk can raise anything, and must not end the run.
        if not tracker.failures:
            logger.warning("MLflow does not accept data; continuing without it: %s", _line(error))
        tracker.failures += 1
        return False
    tracker.failures = 0
    return True


@contextmanager
def open_tracker(stage: str, params: Params, *, enabled: bool) -> Iterator[Tracker]:
    """The stage's run below the pipeline's; marked as failed if the stage fails, continued if a killed stage resumes.

    Raises:
        InputError: MLflow does not work; raised before the stage begins.
    """
    if not enabled:
        yield Tracker()
        return
    client = open_client()
    with told(), store_lock("create"), patience(10, 2):
        parent = find_parent(client, params)
        run = _find_or_create(client, {STAGE_TAG: stage, "mlflow.parentRunId": parent.info.run_id}, stage)
        section = params.model_dump(mode="json", by_alias=True)
        names = (stage.split("@")[0], "training", "model")
        wanted = {name: section[name] for name in names if name in section}
        log_params(client, run, wanted)
    tracker = Tracker(client, run.info.run_id, parent.info.run_id)
    where = (client, run.info.experiment_id, tracker.run_id)
    tracker.result = partial(log_result, *where, stage, flatten(wanted), params)
    _sent(tracker, partial(log_data_sets, client, tracker.run_id, params, read_by(stage)))
    if not (parent.inputs and parent.inputs.dataset_inputs):
        _sent(tracker, partial(log_data_sets, client, tracker.parent_id, params, ALL))
    try:
        yield tracker
    except BaseException:
        tracker.end("FAILED")
        raise
    tracker.end("FINISHED")


def find_parent(client: "MlflowClient", params: Params) -> "Run":
    """The pipeline's run: the one named by ``ATP_PARENT_RUN_ID``, else the run of these parameters and data."""
    given = os.environ.get(PARENT_VARIABLE)
    if given:
        return client.get_run(given)
    described = Path(f"{params.data.root}.dvc")
    data = described.read_text() if described.exists() else ""
    tracked = params.model_dump_json(by_alias=True, exclude={"runtime"})
    pipeline = sha256(f"{tracked}\n{data}".encode()).hexdigest()[:16]
    # A DVC experiment's run has the experiment's name; it is tracked like any other run.
    return _pipeline(client, params, pipeline, os.environ.get("DVC_EXP_NAME") or f"pipeline-{pipeline[:6]}")


def _pipeline(client: "MlflowClient", params: Params, identity: str, name: str) -> "Run":
    run = _find_or_create(client, {PIPELINE_TAG: identity}, name, finished=True)
    if Path("params.yaml").exists() and not run.data.params:
        log_params(client, run, {"": params.model_dump(mode="json", by_alias=True)})
        client.log_artifact(run.info.run_id, "params.yaml")
    return run


@contextmanager
def pipeline_run(params: Params, identity: str, name: str) -> Iterator["Run"]:
    """A pipeline's run; the process that starts the stages passes its id as ``ATP_PARENT_RUN_ID``.

    Args:
        identity: equal identities find the same run, so that a retry continues it.
        name: of a new run.

    Raises:
        InputError: MLflow does not work.
    """
    client = open_client()
    with told(), store_lock("create"), patience(10, 2):
        run = _pipeline(client, params, identity, name)
    tracker = Tracker(client, run.info.run_id, run.info.run_id)
    status = "FINISHED"
    try:
        yield run
    except BaseException as error:
        # An interrupt, or a cancelled flow.
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        raise
    finally:
        tracker.end(status)


def _find_or_create(client: "MlflowClient", tags: dict[str, str], name: str, *, finished: bool = False) -> "Run":
    """Find or create a run with these tags, by default an unfinished one."""
    experiment_id = _experiment_id(client)
    query = " and ".join(f"tags.`{key}` = '{quotable(value)}'" for key, value in tags.items())
    if not finished:
        query += " and attributes.status != 'FINISHED'"
    found = client.search_runs([experiment_id], query, max_results=1)
    if not found:
        return client.create_run(experiment_id, tags=tags, run_name=name)
    client.update_run(found[0].info.run_id, status="RUNNING")
    return found[0]


def quotable(value: str) -> str:
    """Check that a value can be quoted in MLflow's query language, which has no escapes."""
    if "'" in value or "\\" in value:
        raise InputError(f"{value!r} cannot be looked up in MLflow; remove quotes and backslashes")
    return value


def log_params(client: "MlflowClient", run: "Run", tree: Mapping[str, Any]) -> None:
    """Log nested parameters by dotted names; existing ones are skipped, since MLflow cannot change a parameter."""
    from mlflow.entities import Param

    flat = {key: value for key, value in flatten(tree).items() if key not in run.data.params}
    entries = [Param(key, value[:6000]) for key, value in flat.items()]
    for first in range(0, len(entries), 100):
        client.log_batch(run.info.run_id, params=entries[first : first + 100])


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """``{"a": {"b": 1}}`` to ``{"a.b": "1"}``; lists as JSON."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        name = f"{prefix}.{key}".strip(".")
        if isinstance(value, Mapping):
            flat |= flatten(value, name)
        else:
            flat[name] = value if isinstance(value, str) else json.dumps(value)
    return flat
