"""The pipeline in Prefect: one task for each stage of DVC's graph, in its order.

    python -m flows.adapt [--pipeline black_box/dvc.yaml] [--until STAGE] [--set teach.epochs=2] [--force]

DVC stays the one graph and the one cache: what it finds unchanged shows as Cached. Each stage is a child process
``dvc repro --single-item``, and what it prints is the task's log.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import chdir, nullcontext
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from ruamel.yaml import YAML

from atp.errors import InputError, exit_codes
from atp.params import load_params
from atp.runner.process import lock
from atp.runner.tracking import PARENT_VARIABLE, pipeline_run, tracking_uri
from atp.runs import RUNS
from flows.child import put_back
from flows.elsewhere import run_elsewhere
from flows.plan import Step
from flows.results import show_results
from flows.stage import BAD_INPUT, CACHED, child, reproduce

RETRIES, RETRY_DELAY_S = 2, 10
HERE = "here"
NONE: dict[str, Any] = {}
"""No entries: a default that the form in Prefect's UI shows as an empty mapping, where None would have a switch."""


class StageFailedError(Exception):
    """Ends the run; the stage's task says why."""


def make_plan(pipeline: str, until: str, overrides: Mapping[str, Any]) -> list[Step]:
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
def stage(
    name: str,
    after: Sequence[str],
    overrides: dict[str, Any],
    force: bool,
    variables: dict[str, str],
    place: str,
) -> State[Any]:
    """Reproduce one stage, here or elsewhere; its lines are this task's log, its progress an artifact."""
    try:
        if place != HERE:
            return run_elsewhere(place, name, after, overrides, variables, force=force)
        return reproduce(name, overrides, variables, force=force)
    except InputError as error:
        return Failed(name=BAD_INPUT, message=str(error))


@task(task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def unchanged(name: str) -> State[Any]:
    """A stage whose result is there already."""
    return Completed(name=CACHED, message="unchanged")


@flow(name="adapt", persist_result=False)
def adapt(
    pipeline: str = "dvc.yaml",
    until: str = "",
    overrides: dict[str, Any] = NONE,
    force: bool = False,
    places: dict[str, str] = NONE,
) -> State[Any]:
    """Adapt a segmentation model to a new domain: run what DVC finds out of date.

    Args:
        pipeline: path of the dvc.yaml, from the root of the project; `black_box/dvc.yaml` is the other one.
        until: the last stage wanted, as in `dvc dag`; all of them if empty.
        overrides: parameters to change for this run alone, `{"teach.epochs": 2}`.
        force: run the stages even if nothing changed.
        places: stages that run on other machines, by deployment, `{"teach@r01": "stage/gpu"}`; `*` means all others,
            and `here` this machine.
    """
    try:
        path = Path(pipeline)
        if not path.is_file():
            raise InputError(f"{pipeline}: no such pipeline; give the path of a dvc.yaml")
        # Parameters, results, lock and states of a pipeline lie in its own folder, and DVC names its stages from there.
        with chdir(path.parent), lock("flow"):
            put_back()
            return run_stages(path.name, until, overrides, force, places)
    except InputError as error:
        return Failed(name=BAD_INPUT, message=str(error))


def run_stages(
    pipeline: str, until: str, overrides: dict[str, Any], force: bool, places: Mapping[str, str]
) -> State[Any]:
    """All stages that have something to do, one after the other; the first that fails ends the run."""
    params = load_params(overrides=overrides)
    steps = make_plan(pipeline, until, overrides)
    unknown = set(places) - {step.name for step in steps} - {"*"}
    if unknown:
        raise InputError(f"places: no stage {sorted(unknown)[0]} in {pipeline}")
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
                place = places.get(step.name, places.get("*", HERE))
                known = variables if place == HERE else known_elsewhere(variables)
                state = stage(step.name, step.after, overrides, force, known, place, wait_for=before, return_state=True)
            if not state.is_completed():
                raise StageFailedError(f"{step.name}: {state.message}")
            done[step.name] = state
    show_results(RUNS, run)
    cached = sum(state.name == CACHED for state in done.values())
    return Completed(message=f"{len(done)} stages, {cached} of them unchanged")


def known_elsewhere(variables: dict[str, str]) -> dict[str, str]:
    """What another machine's stage is told of MLflow: a server's address, but no file of this machine."""
    uri = tracking_uri()
    return {**variables, "MLFLOW_TRACKING_URI": uri} if uri.startswith(("http://", "https://")) else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", default="dvc.yaml")
    parser.add_argument("--until", default="", help="the last stage wanted")
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
