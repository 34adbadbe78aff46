"""MLflow: one parent run per pipeline, one child run per stage, metrics in batches.

The tracking server is the usual ``MLFLOW_TRACKING_URI``, else a sqlite file in the project.
"""

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atp.config import Params
from atp.errors import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

EXPERIMENT = "atp"
PIPELINE_TAG = "atp.pipeline"
STAGE_TAG = "atp.stage"


def tracking_uri() -> str:
    """The usual variable, else ``mlflow.db`` in the working folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').resolve()}"


def open_client() -> "MlflowClient":
    """A client whose database exists.

    Raises:
        InputError: the server does not answer.
    """
    # Before the import, which reads them. We start no telemetry, and a wrong address should be told soon.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    import mlflow  # takes seconds, which a stage that only prints an error should not wait for

    uri = tracking_uri()
    mlflow.set_tracking_uri(uri)
    client = mlflow.MlflowClient(uri)
    Path(".atp").mkdir(exist_ok=True)
    # Several processes at once on a new sqlite file break its creation.
    with Path(".atp/mlflow.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            if client.get_experiment_by_name(EXPERIMENT) is None:
                client.create_experiment(EXPERIMENT)
        except Exception as error:
            # MLflow wraps a refused connection, a wrong scheme and a broken database in exceptions of many kinds.
            reason = str(error).splitlines()[0][:200]
            raise InputError(f"MLflow at {uri} does not work ({reason}); check MLFLOW_TRACKING_URI") from error
    return client


@dataclass
class Tracker:
    """Where a stage's figures go; without a client (processes other than the first) they go nowhere.

    Figures are sent every few seconds, and training goes on if the server does not answer.
    """

    client: "MlflowClient | None" = None
    run_id: str = ""
    every_s: float = 5.0
    _waiting: list[tuple[str, float, int, int]] = field(default_factory=list)
    _sent_at: float = field(default_factory=time.monotonic)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures of one training step."""
        now = int(time.time() * 1000)
        self._waiting += [(name, value, now, step) for name, value in figures.items()]
        if time.monotonic() - self._sent_at >= self.every_s:
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        waiting, self._waiting, self._sent_at = self._waiting, [], time.monotonic()
        if self.client is None or not waiting:
            return
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        try:
            for first in range(0, len(waiting), 1000):  # the most that one request may hold
                metrics = [Metric(*entry) for entry in waiting[first : first + 1000]]
                self.client.log_batch(self.run_id, metrics=metrics)
        except MlflowException as error:
            logger.warning("MLflow did not take %d figures: %s", len(waiting), str(error).splitlines()[0])

    def artifacts(self, path: Path, to: str | None = None) -> None:
        """Upload a file, or what a folder holds."""
        if self.client is not None:
            upload = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
            upload(self.run_id, str(path), to)

    def finish(self, folder: Path, fingerprint: str) -> None:
        """Send the rest, and say what came out where."""
        self.flush()
        if self.client is not None:
            for key, value in {"atp.folder": str(folder), "atp.fingerprint": fingerprint}.items():
                self.client.set_tag(self.run_id, key, value)


@contextmanager
def open_tracker(stage: str, params: Params, *, enabled: bool) -> Iterator[Tracker]:
    """The stage's run below the pipeline's; failed if the stage fails, continued if a killed stage is."""
    if not enabled:
        yield Tracker()
        return
    client = open_client()
    parent = find_parent(client, params)
    run = _find_or_create(client, {STAGE_TAG: stage, "mlflow.parentRunId": parent.info.run_id}, stage)
    section = params.model_dump(mode="json", by_alias=True)
    log_params(client, run, {name: section[name] for name in (stage.split("@")[0], "training", "network")})
    tracker = Tracker(client, run.info.run_id)
    try:
        yield tracker
    except BaseException:
        tracker.flush()
        client.set_terminated(run.info.run_id, "FAILED")
        raise
    client.set_terminated(run.info.run_id, "FINISHED")


def find_parent(client: "MlflowClient", params: Params) -> "Run":
    """The pipeline's run: the one named by ``ATP_PARENT_RUN_ID``, else that of these parameters and data."""
    given = os.environ.get("ATP_PARENT_RUN_ID")
    if given:
        return client.get_run(given)
    data = Path("data.dvc").read_text() if Path("data.dvc").exists() else ""
    tracked = params.model_dump_json(by_alias=True, exclude={"runtime"})
    pipeline = sha256(f"{tracked}\n{data}".encode()).hexdigest()[:16]
    run = _find_or_create(client, {PIPELINE_TAG: pipeline}, f"pipeline-{pipeline[:6]}", finished=True)
    if Path("params.yaml").exists() and not run.data.params:
        log_params(client, run, {"": params.model_dump(mode="json", by_alias=True)})
        client.log_artifact(run.info.run_id, "params.yaml")
    return run


def _find_or_create(client: "MlflowClient", tags: dict[str, str], name: str, *, finished: bool = False) -> "Run":
    """A run with these tags, by default one that did not finish."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    if not finished:
        query += " and attributes.status != 'FINISHED'"
    found = client.search_runs([experiment.experiment_id], query, max_results=1)
    if not found:
        return client.create_run(experiment.experiment_id, tags=tags, run_name=name)
    client.update_run(found[0].info.run_id, status="RUNNING")
    return found[0]


def log_params(client: "MlflowClient", run: "Run", tree: Mapping[str, Any]) -> None:
    """Nested parameters by dotted names; values that stand already are left alone, since MLflow never changes one."""
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
