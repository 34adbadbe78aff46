"""Run a stage on another machine, in a separate clone, with a DVC remote shared by both machines.

The flow sends the commit, ``dvc.lock`` and the changed parameters. The other machine pulls the stage's inputs, runs it,
pushes its outputs and returns the stage's entry of ``dvc.lock``.
"""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any, cast

from prefect import flow
from prefect.artifacts import Artifact, create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run, task_run
from prefect.states import Cancelling, Completed, Failed
from ruamel.yaml import YAML

from atp.errors import InputError
from atp.files import atomic_path
from atp.registry.origin import git
from atp.runner.process import lock
from flows.overridden import overridden
from flows.stage import BAD_INPUT, Output, child, dvc, reproduce, slug

LOCK = Path("dvc.lock")


def run_elsewhere(
    deployment: str,
    name: str,
    after: Sequence[str],
    overrides: Mapping[str, Any],
    variables: Mapping[str, str],
    *,
    force: bool,
) -> State[Any]:
    """Run a stage by a deployment of the flow ``stage``, and pull its outputs.

    Args:
        deployment: ``stage/gpu``.
        after: names of the stages whose outputs it depends on.

    Raises:
        InputError: no such deployment, no DVC remote, or not a git repository.
    """
    commit = git("rev-parse", "HEAD")
    if commit is None:
        raise InputError(f"{Path.cwd()}: no git repository; other machines identify the code by its commit")
    with get_client(sync_client=True) as client:
        try:
            client.read_deployment_by_name(deployment)
        except (ObjectNotFound, ValueError) as error:  # ValueError: no flow name before the slash
            raise InputError(f"{deployment}: no such deployment in Prefect; see prefect.yaml") from error
    if after:
        transfer("push", *after)
    # Not the project's root for a run with changed parameters, which works in a copy.
    root = next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / ".dvc").is_dir())
    wanted = {
        "name": name,
        "commit": commit,
        "folder": Path.cwd().relative_to(root).as_posix(),
        "lock_text": LOCK.read_text() if LOCK.exists() else "",
        "overrides": dict(overrides),
        "force": force,
        "variables": dict(variables),
    }
    # Returns at once: the run's id is needed to cancel it with this run.
    run = cast(
        "FlowRun",
        run_deployment(deployment, parameters=wanted, timeout=0, flow_run_name=f"{name} {task_run.run_count}"),
    )
    with get_client(sync_client=True) as client:
        try:
            state = _wait(client, run.id)
        except BaseException:
            client.set_flow_run_state(run.id, Cancelling(), force=True)
            raise
    if not state.is_completed():
        name_of_state = BAD_INPUT if state.name == BAD_INPUT else "Failed"
        return Failed(name=name_of_state, message=f"{deployment}: {state.message or state.name}")
    entry = cast("Artifact | None", Artifact.get(key=_key(name, str(run.id))))
    assert entry is not None, "a completed run leaves one"
    write_entry(name, json.loads(str(entry.data)))
    transfer("pull", "--force", name)
    return Completed(name=state.name, message=state.message)


def _wait(client: Any, run_id: object, every_s: float = 1.0) -> State[Any]:
    """Wait for the run to end and return its final state."""
    while True:
        state: State[Any] = client.read_flow_run(run_id).state
        if state.is_final():
            return state
        time.sleep(every_s)


@flow(name="stage", persist_result=False)
def stage_here(
    name: str,
    commit: str,
    folder: str,
    lock_text: str,
    overrides: dict[str, Any],
    force: bool,
    variables: dict[str, str],
) -> State[Any]:
    """Run one stage of another machine's pipeline in this clone.

    Args:
        name: DVC's address of the stage.
        commit: the commit that the clone must be at.
        folder: folder of the pipeline, from the root of the clone.
        lock_text: contents of dvc.lock, which identifies the stage's inputs.
        overrides: see ``overridden``.
        force, variables: see ``flows.stage.reproduce``.
    """
    try:
        with chdir(folder), lock("flow"):
            here = git("rev-parse", "HEAD")
            if here != commit:
                raise InputError(
                    f"{Path.cwd()}: this clone is at {str(here)[:10]}, the run needs {commit[:10]}; "
                    f"git fetch && git checkout {commit[:10]}"
                )
            with overridden(overrides):
                if lock_text:
                    with atomic_path(LOCK) as temporary:
                        temporary.write_text(lock_text)
                state = reproduce(name, variables, force=force, pull=True)
                if state.is_completed():
                    transfer("push", name)
                    create_markdown_artifact(json.dumps(read_entry(name)), key=_key(name, str(flow_run.id)))
                return state
    except InputError as error:
        return Failed(name=BAD_INPUT, message=str(error))


def _key(name: str, run_id: str) -> str:
    return f"dvc-lock-{slug(name)}-{run_id}"


def transfer(*arguments: str) -> None:
    """Run ``dvc push`` or ``dvc pull``.

    Raises:
        InputError: it failed, with the reason.
    """
    output = Output()
    with child(dvc(*arguments)) as process:
        assert process.stdout is not None
        output.read(process.stdout)
    if process.returncode:
        raise InputError(
            f"dvc {arguments[0]}: {(output.complaint or output.last).removesuffix('.')}; see docs/how-to/operating.md"
        )


def read_entry(name: str) -> dict[str, Any]:
    """A stage's entry of dvc.lock: digests of its inputs and outputs."""
    entry: dict[str, Any] = YAML(typ="safe", pure=True).load(LOCK)["stages"][name]
    return entry


def write_entry(name: str, entry: dict[str, Any]) -> None:
    """Set a stage's entry of dvc.lock and keep all others."""
    yaml = YAML()
    yaml.default_flow_style = False  # as DVC writes it
    tree: Any = yaml.load(LOCK) if LOCK.exists() else {"schema": "2.0", "stages": {}}
    tree["stages"][name] = entry
    with atomic_path(LOCK) as temporary, temporary.open("w") as file:
        yaml.dump(tree, file)
