"""The pipeline in Prefect: one task for each stage of DVC's graph, in its order.

    python -m flows.adapt [--pipeline black_box/dvc.yaml] [--until STAGE] [--set teach.epochs=2] [--force]
    python -m flows.adapt --apply NAME

A run with ``--set`` becomes a DVC experiment, which ``--apply`` brings into the workspace: DVC's own ``exp apply`` does
too, but ends as if it had failed while any pipeline of the project, such as that in ``black_box/``, was never run.

DVC remains the only graph and the only cache: unchanged stages are shown as Cached. Each stage is a child process
``dvc repro --single-item``, whose output is the task's log.
"""

import argparse
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import chdir, nullcontext
from pathlib import Path
from typing import Any

from prefect import flow, get_client, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from atp.errors import InputError, exit_codes, first_line
from atp.params import load_params
from atp.project.request import assignment
from atp.runner.process import lock
from atp.runner.tracking import PARENT_VARIABLE, pipeline_run, tracking_uri
from atp.runs import RUNS
from atp.selection.repository import apply
from flows.elsewhere import run_elsewhere
from flows.overridden import Copy, keep, overridden
from flows.plan import Step
from flows.results import show_results
from flows.stage import BAD_INPUT, CACHED, child, reproduce
from flows.ui import FLOW

RETRIES, RETRY_DELAY_S = 2, 10
HERE = "here"
NONE: dict[str, Any] = {}
"""Empty default that Prefect's UI shows as an empty mapping; for None its form would show a switch."""


class StageFailedError(Exception):
    """Ends the run; the stage's task says why."""


def make_plan(pipeline: str, until: str) -> list[Step]:
    """DVC's stages and whether each is out of date.

    Raises:
        InputError: no such pipeline or stage; parameters or DVC's files are not valid.
    """
    wanted = ["--until", until] if until else []
    with child([sys.executable, "-m", "flows.plan", *wanted, pipeline]) as process:
        assert process.stdout is not None
        output = process.stdout.read()
    last = output.strip().splitlines()[-1] if output.strip() else ""
    if process.returncode:
        raise InputError(last.removeprefix("error: ") or f"{pipeline}: DVC ended with {process.returncode}")
    return [Step(**{**row, "after": tuple(row["after"])}) for row in json.loads(last)]


def worth_retrying(task: object, run: object, state: State[Any]) -> bool:
    """Retry everything but bad input: other failures may be a killed process or lack of memory."""
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
    """Reproduce one stage, here or elsewhere; its output is the task's log, its progress an artifact."""
    try:
        if place != HERE:
            return run_elsewhere(place, name, after, overrides, variables, force=force)
        return reproduce(name, variables, force=force)
    except InputError as error:
        return Failed(name=BAD_INPUT, message=str(error))


@task(task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def unchanged(name: str) -> State[Any]:
    """A stage whose result is up to date."""
    return Completed(name=CACHED, message="unchanged")


@flow(name=FLOW, persist_result=False)
def adapt(
    pipeline: str = "dvc.yaml",
    until: str = "",
    overrides: dict[str, Any] = NONE,
    force: bool = False,
    places: dict[str, str] = NONE,
) -> State[Any]:
    """Adapt a segmentation model to a new domain: run what DVC finds out of date.

    Args:
        pipeline: path of the dvc.yaml from the root of the project, also `black_box/dvc.yaml`.
        until: last stage to run, as in `dvc dag`; all stages if empty.
        overrides: parameters to change for this run only, `{"teach.epochs": 2}`; its results become a DVC experiment.
        force: run the stages even if nothing changed.
        places: deployments for stages that run on other machines, `{"teach@r01": "stage/gpu"}`; `*` means all other
            stages, and `here` this machine.
    """
    try:
        path = Path(pipeline)
        if not path.is_file():
            raise InputError(f"{pipeline}: no such pipeline; pass the path of a dvc.yaml")
        # A pipeline's parameters, results, lock and states are in its own folder, and DVC names its stages from there.
        with chdir(path.parent), lock("flow"):
            load_params(overrides=overrides)
            with overridden(overrides) as copy:
                return run_stages(path.name, until, overrides, force, places, copy)
    except InputError as error:
        return Failed(name=BAD_INPUT, message=str(error))


def run_stages(
    pipeline: str,
    until: str,
    overrides: dict[str, Any],
    force: bool,
    places: Mapping[str, str],
    copy: Copy | None,
) -> State[Any]:
    """Run all outdated stages in order; the first failure ends the run."""
    params = load_params()
    steps = make_plan(pipeline, until)
    unknown = set(places) - {step.name for step in steps} - {"*"}
    if unknown:
        raise InputError(f"places: no stage {sorted(unknown)[0]} in {pipeline}")
    busy = force or any(not (step.clean or step.always) for step in steps)
    done: dict[str, State[Any]] = {}
    # Stages log below the pipeline's run; MLflow is not imported if nothing will be logged.
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
    kept = f"; {keep(copy, pipeline, list(done))}" if copy else ""
    return Completed(message=f"{len(done)} stages, {cached} of them unchanged{kept}")


def known_elsewhere(variables: dict[str, str]) -> dict[str, str]:
    """MLflow's variables for a stage on another machine: a server's address, but no local file."""
    uri = tracking_uri()
    return {**variables, "MLFLOW_TRACKING_URI": uri} if uri.startswith(("http://", "https://")) else {}


def start_server() -> None:
    """Start Prefect's temporary server, if there is no other, so that Ctrl-C in a terminal does not reach it.

    The flow would otherwise try for minutes to tell it that it was interrupted. A process begins with the signals
    blocked that are blocked where it is started.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        get_client(sync_client=True)
    except RuntimeError as error:
        raise InputError(f"Prefect's temporary server does not start ({first_line(error)}); run it again") from error
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", default="dvc.yaml")
    parser.add_argument("--until", default="", help="last stage to run")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter for this run only"
    )
    parser.add_argument("--force", action="store_true", help="run the stages even if nothing changed")
    parser.add_argument("--apply", metavar="NAME", help="bring an experiment into the workspace, and run nothing")
    arguments = parser.parse_args()
    if arguments.apply:
        with exit_codes():
            apply(arguments.apply)
        print(f"applied: {arguments.apply}")
        return
    # Prefect sends itself a SIGTERM again after it has recorded the crash; its temporary server would outlive us by it.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with exit_codes(lambda: "flows.adapt: interrupted; the same command continues"):
        start_server()
        overrides = dict(map(assignment, arguments.set))
        state = adapt(arguments.pipeline, arguments.until, overrides, arguments.force, return_state=True)
    if state.is_completed():
        return
    print(f"error: {state.message}", file=sys.stderr)
    sys.exit(2 if state.name == BAD_INPUT else 1)


if __name__ == "__main__":
    main()
