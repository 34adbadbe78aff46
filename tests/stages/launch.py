"""Stages as processes, for tests: importable, so that a process can be told to start here."""

import multiprocessing
import os
import runpy
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from atp.pseudo_labels.store import PseudoLabelWriter
from atp.runner import stage
from atp.runner.beside import open_stage_tracker
from atp.training.loop import Training
from tests import warm

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


STORES = ("mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store")
"""What MLflow imports where there is a sqlite file."""


@dataclass(frozen=True)
class Ended:
    """How a stage's process ended."""

    code: int
    output: str


RunStage = Callable[..., Ended]


def set_params(project: Path, section: str, **changes: Any) -> None:
    """Change a section of the project's params.yaml."""
    yaml = YAML(typ="safe")
    tree = yaml.load(project / "params.yaml")
    tree[section].update(changes)
    yaml.dump(tree, project / "params.yaml")


CURIOUS = """
from pathlib import Path
from torch import nn
def make(paths):
    for path in paths:
        try:
            Path(path).read_bytes()
            print(f"opened {path}")
        except PermissionError as error:
            print(f"refused {path}: {error.strerror}")
    features = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(features, nn.Conv2d(8, 3, 1))
"""


def give_curious_network(project: Path, paths: Sequence[str]) -> None:
    """A network of the user's own, which tries to read some files whenever it is made and prints what came of it."""
    (project / "curious.py").write_text(CURIOUS)
    yaml = YAML(typ="safe")
    tree = yaml.load(project / "params.yaml")
    tree["model"] = {"factory": "curious:make", "arguments": {"paths": list(paths)}, "classifier": "1"}
    tree["model"]["code"] = "curious.py"
    yaml.dump(tree, project / "params.yaml")


def forkserver() -> ForkServerContext:
    """Starts processes by forking one that has everything imported."""
    context = multiprocessing.get_context("forkserver")
    stages = {"query", "distill", *(stage for stage, *_ in ORDER)}
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    for name, value in warm.ONE_THREAD.items():
        os.environ.setdefault(name, value)
    # With the packages of networks that some tests take.
    slow = ("mlflow", *STORES, "segmentation_models_pytorch", "transformers.models.mask2former")
    context.set_forkserver_preload([__name__, *slow, *(f"atp.stages.{stage}" for stage in sorted(stages))])
    return context


def stage_process(
    project: Path,
    stage: str,
    arguments: tuple[str, ...],
    step_s: float = 0.0,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run ``python -m atp.stages.<stage>`` in the project, output to output.txt.

    With ``step_s`` every step takes at least so long, so that a kill lands in the middle of the work, and the file
    ``ready`` appears when the work is about to begin.
    """
    os.chdir(project)
    # The server that this is forked from may have been started by a test that has its own.
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.environ.update(environment or {})
    # As `python -m` does it.
    sys.path.insert(0, str(project))
    with (project / "output.txt").open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if step_s:
        slow_down(step_s)
    sys.argv = [f"atp.stages.{stage}", *arguments]
    sys.modules.pop(f"atp.stages.{stage}", None)
    runpy.run_module(f"atp.stages.{stage}", run_name="__main__")


def slow_down(step_s: float) -> None:
    """The work itself is unchanged; ``ready`` is there once figures can be tracked, just before a stage's body."""

    def slowed(function: Callable[..., Any]) -> Callable[..., Any]:
        def slow(*args: Any, **kwargs: Any) -> Any:
            time.sleep(step_s)
            return function(*args, **kwargs)

        return slow

    Training._step = slowed(Training._step)  # type: ignore[method-assign]
    PseudoLabelWriter.add = slowed(PseudoLabelWriter.add)  # type: ignore[method-assign]

    def ready(*args: Any, **kwargs: Any) -> Any:
        Path("ready").touch()
        return open_stage_tracker(*args, **kwargs)

    stage.open_stage_tracker = ready


def killed_again_and_again(project: Path, stage: str, arguments: tuple[str, ...], files: list[str]) -> None:
    """kill -9 again and again, each time a little later, until the stage gets through; same bits as without."""
    # With a data loading process, which is still there when the stage starts again.
    set_params(project, "runtime", workers=1)
    folder = project / "runs" / Path(files[0]).parts[1]
    folder = folder / arguments[1] if arguments else folder
    expected = {name: (project / name).read_bytes() for name in files}
    shutil.rmtree(folder)
    context, ready = forkserver(), project / "ready"
    kills = 0
    for wait in (0.0, 0.05, 0.1, 0.2, 0.35, 0.6, None):
        ready.unlink(missing_ok=True)
        process = context.Process(target=stage_process, args=(project, stage, arguments, 0.05))
        process.start()
        if wait is not None:
            while not ready.exists():
                assert process.is_alive(), (project / "output.txt").read_text()
                time.sleep(0.005)
            time.sleep(wait)
            process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        if wait is None:
            assert process.exitcode == 0, (project / "output.txt").read_text()
        elif folder.exists():
            # Whole, or not there: nothing is ever half-written under its final name.
            assert {name: (project / name).read_bytes() for name in files} == expected
            shutil.rmtree(folder)
    assert kills >= 5
    assert {name: (project / name).read_bytes() for name in files} == expected
    assert not list((project / "runs").rglob("*.tmp*")), "leftovers are cleared away"
    assert not list((project / ".atp/state").glob(f"{stage}*")), "state is deleted on success"
