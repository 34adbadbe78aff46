"""What all stages share: parameters, lock, seal, state, tracking, and atomic output.

A stage's module calls ``run_stage`` with a function that takes a ``Stage``. It is started by DVC, by Prefect through
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
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path

import atp
from atp.code import code_digests
from atp.data.folder import Sample, list_samples
from atp.data.labels import LabelSpace
from atp.data.loading import Images
from atp.data.prepared import Prepared, Store
from atp.data.reading import Reading
from atp.errors import InputError, exit_codes
from atp.models.checkpoint import Checkpoint, load_checkpoint, restored, save_checkpoint
from atp.models.network import NetworkConfig, SegmentationNetwork
from atp.models.own import check_code
from atp.params import Params, load_params
from atp.runner.beside import open_stage_tracker
from atp.runner.digests import Digests
from atp.runner.parent import die_with_parent
from atp.runner.process import (
    STATE,
    interrupted,
    lock,
    output,
    prepared_sealed,
    prepared_target,
    remove_leftovers,
    seal,
    write_json,
)
from atp.runner.resume import ResumeFile
from atp.runner.tracking import Tracker
from atp.runs import HISTORY, MODEL, folder
from atp.settings import check_imported
from atp.training.loop import History
from atp.training.run import Run, part_seed
from atp.training.runtime import Runtime, open_runtime

__all__ = ["Stage", "forget", "run_stage", "write_history", "write_json"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """One execution of one stage.

    Attributes:
        name: as in dvc.yaml.
        key: the round's key, for stages with rounds.
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
        """Folder of the result."""
        return folder(self.name, self.key)

    @property
    def seed(self) -> int:
        """This stage's seed: see ``part_seed``."""
        return part_seed(self.params.training.seed, self.label)

    @property
    def digests(self) -> Digests:
        """Digests of the project's files."""
        return Digests(STATE.parent / "digests.sqlite")

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the inputs' bytes, the parameters and the code: equal fingerprints train equal models.

        The section ``evidence`` is excluded: if the guard stopped a training, changing its settings does not repeat the
        training.
        """
        sections = self.params.model_dump(mode="json", by_alias=True, exclude={"runtime"})
        # The settings of align and propagate select a module.
        chosen = getattr(getattr(self.params, self.name, None), "module", None)
        modules = [f"atp.stages.{self.name}", *([chosen] if chosen else [])]
        parts = {
            "stage": self.label,
            "params": {name: sections[name] for name in ("data", "model", "training", self.name) if name in sections},
            "dump": sections["dump"],
            "inputs": {str(path): self.digests.of(path) for path in self.inputs},
            "code": code_digests(*modules),
        }
        return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def state(self) -> Path:
        """Path of this stage's state, by fingerprint; logs it if a state with another fingerprint is ignored."""
        mine = STATE / f"{self.label}-{self.fingerprint[:16]}"
        others = [path for path in STATE.glob(f"{self.label}-*") if not path.name.startswith(mine.name)]
        if others and self.runtime.is_main:
            logger.warning(
                "%s: refused the unfinished state %s: it is from other inputs, parameters or code; starting over",
                self.label,
                others[0],
            )
        return mine

    def run(self) -> Run:
        """The context that a training function needs."""
        if self.params.training.precision == "auto" and self.runtime.is_main:
            logger.info("%s: computes in %s", self.label, self.runtime.precision)
        resume = ResumeFile(self.state.with_suffix(".pt"), self.fingerprint, self.runtime.save_every_s)
        return Run(self.label, self.seed, self.runtime, resume, self.tracker.log)

    def images(self, samples: Sequence[Sample], size: tuple[int, int] | None = None) -> Images:
        """Samples at the sizes from params.yaml; ``size`` defaults to ``data.size``."""
        return self._images(samples, size or self.params.data.size, prepared_sealed())

    def prepared_labels(self, samples: Sequence[Sample], num_classes: int) -> Prepared:
        """The source's labels that need not be decoded again."""
        files = [sample.label for sample in samples if sample.label]
        return self._store(prepared_sealed()).labels(files, self.params.data.source_size, num_classes)

    def target(self) -> Images:
        """The target's images, without labels."""
        data = self.params.data
        return self._images(list_samples(data.target.images), data.size, prepared_target(self.params))

    def _images(self, samples: Sequence[Sample], size: tuple[int, int] | None, folder: Path) -> Images:
        data = self.params.data
        prepared = self._store(folder).images([sample.image for sample in samples], size)
        return Images(samples, size, data.crop, data.window, prepared)

    def _store(self, folder: Path) -> Store:
        return Store(folder, self.runtime.prepared_mb * 2**20, self.digests.of_files)

    def network_config(self, space: LabelSpace) -> NetworkConfig:
        """The section ``model``, completed with the classes of the data and of a given source model.

        Raises:
            InputError: the class map does not fit, or DVC does not track the network's code.
        """
        config = self.params.network(space)
        check_code(config)
        return config

    def load(self, made: Path) -> tuple[SegmentationNetwork, Checkpoint]:
        """Load the model from a stage's folder."""
        path = made / MODEL
        checkpoint = load_checkpoint(path)
        return restored(checkpoint, path), checkpoint

    def save(
        self,
        network: SegmentationNetwork,
        made_from: Checkpoint,
        history: History,
        also: Callable[[Path], None] = lambda folder: None,
        *,
        reading: Reading | None = None,
    ) -> None:
        """Write a model and its history as this stage's result, atomically, and delete the training state.

        Args:
            made_from: provides the network's configuration and classes.
            also: writes further files of the result into the folder.
            reading: how it read images; None is as the section ``data`` says of the target's.
        """
        if self.runtime.is_main:
            made_by = {
                "stage": self.label,
                "fingerprint": self.fingerprint,
                "precision": self.runtime.precision,
                "atp": atp.__version__,
            }
            network.reading = reading or self.params.data.reading
            with self.output() as result:
                save_checkpoint(result / MODEL, network, made_from.config, made_from.label_space, made_by)
                write_history(result / HISTORY, history)
                also(result)
            forget(self.label)
        self.runtime.barrier()

    def output(self) -> AbstractContextManager[Path]:
        """A temporary folder that becomes this stage's result on success."""
        return output(self.folder)


def forget(label: str) -> None:
    """Delete all states of a stage."""
    for path in STATE.glob(f"{label}-*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_history(path: Path, history: History) -> None:
    """Write one line per record, for DVC's plots among others."""
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
        sealed: the stage must not open the source data or the target's labels.
        opened: source data or test images that a sealed stage may open nevertheless.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    parser = argparse.ArgumentParser(prog=f"python -m atp.stages {name}", description=f"Stage {name} of dvc.yaml.")
    if rounds:
        parser.add_argument("--round", required=True, help="key of the round in params.yaml")
    key: str | None = vars(parser.parse_args()).get("round")
    label = f"{name}@{key}" if key else name
    with exit_codes(partial(interrupted, label)):
        params = load_params()
        if key is not None and key not in params.rounds:
            raise InputError(f"params.yaml: rounds has no {key}; it has {', '.join(params.rounds)}")
        paths = list(inputs(params, key))
        for path in paths:
            check_imported(path)
        # PyTorch's launcher starts each of several processes.
        die_with_parent()
        if sealed:
            seal(params, opened(params))
        with (
            open_runtime(params.training, params.runtime) as runtime,
            lock(label) if runtime.is_main else nullcontext(),
        ):
            if runtime.is_main:
                remove_leftovers(folder(name, key))
            with open_stage_tracker(label, params, enabled=runtime.is_main) as tracker:
                stage = Stage(name, key, params, runtime, paths, tracker)
                body(stage)
                tracker.finish(stage.folder, stage.fingerprint)
