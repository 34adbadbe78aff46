"""What every stage's command shares: parameters, lock, seal, state, tracking, and output that is whole or absent.

A stage's module calls ``run_stage`` with a function from ``Stage`` to nothing; it is started by DVC, by Prefect through
DVC, by ``torchrun``, or by hand, always from the root of the project.
"""

import argparse
import json
import logging
import shutil
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import atp
from atp.config import Params, load_params
from atp.data.folder import Sample, list_samples
from atp.data.labels import LabelSpace
from atp.data.loading import ImageCache, mix_seed
from atp.errors import InputError, exit_codes
from atp.files import digest
from atp.models.checkpoint import Checkpoint, load_checkpoint, restored, save_checkpoint
from atp.models.network import NetworkConfig, SegmentationNetwork
from atp.models.own import check_code
from atp.stages.beside import open_stage_tracker
from atp.stages.process import STATE, die_with_parent, lock, output, remove_leftovers, seal, write_json
from atp.tracking import Tracker
from atp.training.loop import History
from atp.training.resume import ResumeFile
from atp.training.run import Run
from atp.training.runtime import Runtime, open_runtime

__all__ = ["CODE", "Stage", "forget", "run_stage", "write_history", "write_json"]

logger = logging.getLogger(__name__)

CODE = ("black_box", "data", "losses", "models", "pseudo_labels", "rivals", "training")
"""Folders of this package whose change changes a result."""


@dataclass(frozen=True)
class Stage:
    """One execution of one stage.

    Attributes:
        name: as in dvc.yaml.
        key: of the round, for stages that have rounds.
        params: all of params.yaml.
        runtime: device and processes.
        inputs: files and folders that the result depends on.
        tracker: the stage's MLflow run.
    """

    name: str
    key: str | None
    params: Params
    runtime: Runtime
    inputs: Sequence[Path]
    tracker: Tracker

    @property
    def label(self) -> str:
        return f"{self.name}@{self.key}" if self.key else self.name

    @property
    def folder(self) -> Path:
        """Where the result goes."""
        return Path("runs") / self.name / (self.key or "")

    @property
    def seed(self) -> int:
        """The seed of the whole, mixed with the stage's name, so that no two stages draw alike."""
        return mix_seed(self.params.training.seed, int.from_bytes(sha256(self.label.encode()).digest()[:7], "big"))

    @cached_property
    def fingerprint(self) -> str:
        """Of the inputs' bytes, the parameters and the code: equal fingerprints make equal results."""
        sections = self.params.model_dump(mode="json", by_alias=True, exclude={"runtime"})
        package = Path(atp.__file__).parent
        code = [path for folder in CODE for path in sorted((package / folder).rglob("*.py"))]
        code.append(package / f"stages/{self.name}.py")
        parts = {
            "stage": self.label,
            "params": {name: sections[name] for name in ("data", "model", "training", self.name) if name in sections},
            "dump": sections["dump"],
            "inputs": {str(path): digest(path) for path in self.inputs},
            "code": {str(path.relative_to(package)): digest(path) for path in code},
        }
        return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def state(self) -> Path:
        """Where this stage's state lies, by fingerprint; says so when another one's is passed over."""
        mine = STATE / f"{self.label}-{self.fingerprint[:16]}"
        others = [path for path in STATE.glob(f"{self.label}-*") if not path.name.startswith(mine.name)]
        if others and self.runtime.is_main:
            logger.warning(
                "%s: refused the unfinished state %s: it is of other inputs, parameters or code; starting over",
                self.label,
                others[0],
            )
        return mine

    def run(self) -> Run:
        """What a training function needs."""
        resume = ResumeFile(self.state.with_suffix(".pt"), self.fingerprint, self.runtime.save_every_s)
        return Run(self.label, self.seed, self.runtime, resume, self.tracker.log)

    def cache(self) -> ImageCache:
        return ImageCache(self.runtime.cache_mb)

    def target_images(self) -> list[Sample]:
        """The target's images, without labels."""
        return list_samples(self.params.data.target.images)

    def network_config(self, space: LabelSpace) -> NetworkConfig:
        """The section ``model``, for the classes of the data and those that a given model has.

        Raises:
            InputError: a class map that does not fit, or code of the network's that DVC does not watch.
        """
        # The answers of a black box are mapped before they are stored.
        class_map = None if self.params.black_box else self.params.data.mapped_ids()
        changes = {"num_classes": space.num_classes, "class_map": class_map}
        config = self.params.model.model_copy(update=changes)
        check_code(config)
        return config

    def load(self, folder: Path) -> tuple[SegmentationNetwork, Checkpoint]:
        """The model that a stage left in its folder."""
        path = folder / "model.safetensors"
        checkpoint = load_checkpoint(path)
        return restored(checkpoint, path), checkpoint

    def save(self, network: SegmentationNetwork, made_from: Checkpoint, history: History) -> None:
        """Write the model and its history as this stage's result, and forget the training state."""
        if self.runtime.is_main:
            with self.output() as folder:
                made_by = {"stage": self.label, "fingerprint": self.fingerprint, "atp": atp.__version__}
                save_checkpoint(folder / "model.safetensors", network, made_from.config, made_from.label_space, made_by)
                write_history(folder / "history.csv", history)
            forget(self.label)
        self.runtime.barrier()

    def output(self) -> AbstractContextManager[Path]:
        """A temporary folder that becomes this stage's result if all goes well."""
        return output(self.folder)


def forget(label: str) -> None:
    """Delete all states of a stage."""
    for path in STATE.glob(f"{label}-*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_history(path: Path, history: History) -> None:
    """One line a record, as DVC and everyone else can plot it."""
    names = list(history)
    rows = [",".join(names), *(",".join(f"{v:.6g}" for v in row) for row in zip(*history.values(), strict=True))]
    path.write_text("\n".join(rows) + "\n")


def run_stage(
    name: str,
    body: Callable[[Stage], None],
    inputs: Callable[[Params, str | None], Sequence[Path]],
    *,
    rounds: bool = False,
    sealed: bool = True,
    opened: Callable[[Params], Collection[Path]] = lambda params: (),
) -> None:
    """Run a stage as a command; never returns normally on bad input.

    Args:
        name: of the stage, its module and its section.
        body: does the work.
        inputs: files and folders that the result depends on.
        rounds: the command takes ``--round``.
        sealed: the stage may open neither the source data nor any label of the target.
        opened: what of the source data and the test images a sealed stage may open all the same.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    parser = argparse.ArgumentParser(prog=f"python -m atp.stages {name}", description=f"Stage {name} of dvc.yaml.")
    if rounds:
        parser.add_argument("--round", required=True, help="key of the round in params.yaml")
    key: str | None = vars(parser.parse_args()).get("round")
    with exit_codes():
        params = load_params()
        if key is not None and key not in params.rounds:
            raise InputError(f"params.yaml: rounds has no {key}; it has {', '.join(params.rounds)}")
        die_with_parent()
        if sealed:
            seal(params, opened(params))
        label = f"{name}@{key}" if key else name
        with (
            open_runtime(params.training, params.runtime) as runtime,
            lock(label) if runtime.is_main else nullcontext(),
        ):
            if runtime.is_main:
                remove_leftovers(Path("runs") / name / (key or ""))
            with open_stage_tracker(label, params, enabled=runtime.is_main) as tracker:
                stage = Stage(name, key, params, runtime, list(inputs(params, key)), tracker)
                body(stage)
                tracker.finish(stage.folder, stage.fingerprint)
