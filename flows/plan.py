"""DVC's graph as JSON: the stages of a pipeline in order, their dependencies, and whether each is up to date.

    python -m flows.plan [--until teach@r01] dvc.yaml

A separate process, since it must see the parameters that a run has changed.
"""

import argparse
import difflib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from atp.errors import InputError, exit_codes
from atp.project.code import STAGE, write_code


@dataclass(frozen=True)
class Step:
    """One stage of the pipeline.

    Attributes:
        name: DVC's address of the stage.
        after: names of the stages it depends on.
        clean: neither its dependencies nor any stage before it has changed.
        always: it runs even if clean (``always_changed``).
    """

    name: str
    after: tuple[str, ...]
    clean: bool
    always: bool


def plan(pipeline: Path, until: str | None) -> list[Step]:
    """The stages of a ``dvc.yaml`` and their dependencies, up to ``until``, in topological order.

    Raises:
        InputError: no such file or stage, or an invalid file.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    if not pipeline.is_file():
        raise InputError(f"{pipeline}: no such pipeline; pass the path of a dvc.yaml")
    try:
        with Repo(".") as repo:
            graph = repo.index.graph
            if any(stage.addressing == STAGE for stage in graph):
                # Without it, DVC would compare the stages with the code of the last run.
                write_code()
            changes = repo.status()
    except DvcException as error:
        raise InputError(f"{pipeline}: {' '.join(str(error).split())}") from error
    names = [stage.addressing for stage in graph]
    if until is not None and until not in names:
        near = difflib.get_close_matches(until, names, n=1)
        raise InputError(f"{pipeline}: no stage {until}; " + (f"is it {near[0]}?" if near else f"it has {names}"))
    if until is None:
        wanted = [stage for stage in graph if Path(stage.path).resolve() == pipeline.resolve()]
    else:
        wanted = [stage for stage in graph if stage.addressing == until]
    steps: dict[str, Step] = {}

    def add(stage: object) -> None:
        before = sorted(graph.successors(stage), key=order.index)
        for other in before:
            if other.addressing not in steps:
                add(other)
        after = tuple(other.addressing for other in before)
        changed = changes.get(stage.addressing)  # type: ignore[attr-defined]
        quiet = all(steps[name].clean for name in after if name != STAGE)
        name = stage.addressing  # type: ignore[attr-defined]
        steps[name] = Step(name, after, quiet and not changed, quiet and changed == ["always changed"])

    order = list(graph)
    for stage in wanted:
        if stage.addressing not in steps:
            add(stage)
    return list(steps.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--until", help="last stage to run")
    parser.add_argument("pipeline", type=Path)
    arguments = parser.parse_args()
    with exit_codes():
        print(json.dumps([asdict(step) for step in plan(arguments.pipeline, arguments.until)]))


if __name__ == "__main__":
    main()
