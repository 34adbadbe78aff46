"""Stages as processes, for tests: importable, so that a process can be told to start here."""

import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path

ORDER = (
    ("source",),
    ("align",),
    ("dump", "--round", "r01"),
    ("teach", "--round", "r01"),
    ("dump", "--round", "r02"),
    ("teach", "--round", "r02"),
    ("split",),
    ("propagate",),
    ("evaluate",),
)
"""Stages and their arguments as dvc.yaml has them."""


@dataclass(frozen=True)
class Ended:
    """How a stage's process ended."""

    code: int
    output: str


RunStage = Callable[..., Ended]


def forkserver() -> ForkServerContext:
    """Starts processes by forking one that has everything imported."""
    context = multiprocessing.get_context("forkserver")
    stages = {stage for stage, *_ in ORDER}
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    context.set_forkserver_preload([__name__, "mlflow", *(f"atp.stages.{stage}" for stage in sorted(stages))])
    return context


def stage_process(project: Path, stage: str, arguments: tuple[str, ...]) -> None:
    """Run ``python -m atp.stages.<stage>`` in the project, output to output.txt."""
    os.chdir(project)
    with (project / "output.txt").open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [f"atp.stages.{stage}", *arguments]
    sys.modules.pop(f"atp.stages.{stage}")
    runpy.run_module(f"atp.stages.{stage}", run_name="__main__")
