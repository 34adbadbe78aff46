"""The pipeline in Prefect: one task for each stage of DVC's graph, in its order.

    python -m flows.adapt [--until STAGE] [--set teach.epochs=2] [--force]

DVC stays the one graph and the one cache: what it finds unchanged shows as Cached. Each stage is a child process
``dvc repro --single-item``, and what it prints is the task's log.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from ruamel.yaml import YAML

from atp.config import load_params
from atp.errors import InputError, exit_codes
from atp.stages.process import lock
from atp.tracking import PARENT_VARIABLE, pipeline_run
from atp.training.progress import share_done
from flows.child import GRACE_S, put_back
from flows.plan import Step
from flows.results import show_results

RETRIES, RETRY_DELAY_S = 2, 10
BAD_INPUT = "BadInput"
CACHED = ("didn't change, skipping", "is cached - skipping run, checking out outputs")
"""What DVC says when a stage's result is there already."""


class StageFailedError(Exception):
    """Ends the run; the stage's task says why."""


HINTS = ("To track the changes with git", "git add ", "To enable auto staging", "dvc config ", "Use `dvc push`")
"""What DVC tells a person at a terminal."""


@contextmanager
def child(command: Sequence[str], overrides: Mapping[str, Any], **variables: str) -> Iterator["subprocess.Popen[str]"]:
    """A command under changed parameters, in a process group of its own; however this ends, the whole group ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.child", "--set", json.dumps(overrides), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        env={**os.environ, **variables},
    )
    try:
        yield process
        process.wait()
    finally:
        _end(process)


def _end(process: "subprocess.Popen[str]") -> None:
    # By hand and not on `poll()`: the leader may be gone while others of its group still run.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(2 * GRACE_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    put_back()


def make_plan(pipeline: str, until: str | None, overrides: Mapping[str, Any]) -> list[Step]:
    """DVC's stages and what of them is to be done.

    Raises:
        InputError: no such pipeline or stage; parameters or DVC's files are not valid.
    """
    wanted = ["--until", until] if until else []
    with child([sys.executable, "-m", "flows.plan", *wanted, pipeline], overrides) as process:
        assert process.stdout is not None
        output = process.stdout.read()
    last = output.strip().splitlines()[-1] if output.strip() else ""
    if process.returncode:
        raise InputError(last.removeprefix("error: ") or f"{pipeline}: DVC ended with {process.returncode}")
    return [Step(**{**row, "after": tuple(row["after"])}) for row in json.loads(last)]


def worth_retrying(task: object, run: object, state: State[Any]) -> bool:
    """Bad input stays bad; everything else may have been a killed process or a full memory."""
    return state.name != BAD_INPUT


@task(
    task_run_name="{name}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAY_S,
    retry_condition_fn=worth_retrying,
)
def stage(name: str, overrides: dict[str, Any], force: bool, variables: dict[str, str]) -> State[Any]:
    """Reproduce one stage; its lines are this task's log, its progress an artifact."""
    logger, progress = get_run_logger(), ProgressArtifact(name)
    command = ["dvc", "--wait-for-lock", "repro", "--single-item", *(["--force"] if force else []), name]
    cached, bad, complaint = False, False, ""
    with child([sys.executable, "-m", *command], overrides, **variables) as process:
        assert process.stdout is not None
        for line in process.stdout:
            line = line.rstrip()
            if not line or line.strip().startswith(HINTS):
                continue
            logger.info(line)
            progress.read(line)
            cached |= line.endswith(CACHED)
            if line.startswith(("error: ", "ERROR: ")):
                # The stage's own line, which comes first, says more than DVC's.
                complaint = complaint or line.partition(" ")[2]
            bad |= line.endswith("exited with 2")
    if process.returncode:
        message = complaint or f"{name}: DVC ended with {process.returncode}"
        return Failed(name=BAD_INPUT if bad else "Failed", message=message)
    return Completed(name="Cached", message="unchanged") if cached else Completed(message="done")


class ProgressArtifact:
    """A bar in the UI, made when a stage first tells how far it is."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._id: UUID | None = None

    def read(self, line: str) -> None:
        share = share_done(line)
        if share is None:
            return
        percent = 100 * share
        if self._id is None:
            key = re.sub(r"[^a-z0-9]+", "-", f"{self._stage}-progress".lower())
            self._id = cast("UUID", create_progress_artifact(percent, key=key, description=line))
        else:
            update_progress_artifact(self._id, percent, description=line)


@task(task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def unchanged(name: str) -> State[Any]:
    """A stage whose result is there already."""
    return Completed(name="Cached", message="unchanged")


@flow(name="adapt", persist_result=False)
def adapt(
    pipeline: str = "dvc.yaml",
    until: str | None = None,
    overrides: dict[str, Any] | None = None,
    force: bool = False,
) -> State[Any]:
    """Adapt a segmentation model to a new domain: run what DVC finds out of date.

    Args:
        pipeline: path of the dvc.yaml, from the root of the project.
        until: the last stage wanted, as in `dvc dag`; all of them if empty.
        overrides: parameters to change for this run alone, `{"teach.epochs": 2}`.
        force: run the stages even if nothing changed.
    """
    try:
        with lock("flow"):
            put_back()
            return run_stages(pipeline, until, overrides or {}, force)
    except InputError as error:
        return Failed(name=BAD_INPUT, message=str(error))


def run_stages(pipeline: str, until: str | None, overrides: dict[str, Any], force: bool) -> State[Any]:
    """All stages that have something to do, one after the other; the first that fails ends the run."""
    params = load_params(overrides=overrides)
    steps = make_plan(pipeline, until, overrides)
    busy = force or any(not (step.clean or step.always) for step in steps)
    done: dict[str, State[Any]] = {}
    # Stages name their runs in MLflow after the pipeline's; MLflow's import is spared where nothing will be logged.
    with pipeline_run(params, str(flow_run.id), str(flow_run.name)) if busy else nullcontext() as run:
        variables = {PARENT_VARIABLE: run.info.run_id} if run else {}
        for step in steps:
            before = [done[name] for name in step.after]
            if step.clean and not force:
                state = unchanged(step.name, wait_for=before, return_state=True)
            else:
                state = stage(step.name, overrides, force, variables, wait_for=before, return_state=True)
            if not state.is_completed():
                raise StageFailedError(f"{step.name}: {state.message}")
            done[step.name] = state
    show_results(Path("runs"), run)
    cached = sum(state.name == "Cached" for state in done.values())
    return Completed(message=f"{len(done)} stages, {cached} of them unchanged")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", default="dvc.yaml")
    parser.add_argument("--until", help="the last stage wanted")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter for this run alone"
    )
    parser.add_argument("--force", action="store_true", help="run the stages even if nothing changed")
    arguments = parser.parse_args()
    with exit_codes():
        overrides = dict(_assignment(text) for text in arguments.set)
        state = adapt(arguments.pipeline, arguments.until, overrides, arguments.force, return_state=True)
    if state.is_completed():
        return
    print(f"error: {state.message}", file=sys.stderr)
    sys.exit(2 if state.name == BAD_INPUT else 1)


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set {text}: must be NAME=VALUE, as in teach.epochs=2")
    return name, YAML(typ="safe", pure=True).load(value)


if __name__ == "__main__":
    main()
