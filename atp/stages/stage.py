"""What every stage's command shares: parameters, lock, seal, state, tracking, and output that is whole or absent.

A stage's module calls ``run_stage`` with a function from ``Stage`` to nothing; it is started by DVC, by Prefect through
DVC, by ``torchrun``, or by hand, always from the root of the project.
"""

import argparse
import ctypes
import errno
import fcntl
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import atp
from atp.config import Params, load_params
from atp.data.folder import Sample, list_samples
from atp.data.loading import ImageCache, mix_seed
from atp.errors import InputError
from atp.files import digest
from atp.models.checkpoint import Checkpoint, load_checkpoint, load_into, save_checkpoint
from atp.models.network import SegmentationNetwork, build_network
from atp.tracking import Tracker, open_tracker
from atp.training.loop import History
from atp.training.resume import ResumeFile
from atp.training.run import Run
from atp.training.runtime import Runtime, open_runtime

logger = logging.getLogger(__name__)

STATE = Path(".atp/state")
"""Training states and half-done dumps; outside DVC's outputs, which DVC deletes before a rerun."""

CODE = ("data", "losses", "models", "pseudo_labels", "training")
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
        parts = {
            "stage": self.label,
            "params": {name: sections[name] for name in ("data", "network", "training", self.name)},
            "dump": sections["dump"],
            "inputs": {str(path): digest(path) for path in self.inputs},
            "code": [digest(package / folder) for folder in CODE],
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

    def load(self, folder: Path) -> tuple[SegmentationNetwork, Checkpoint]:
        """The model that a stage left in its folder."""
        path = folder / "model.safetensors"
        checkpoint = load_checkpoint(path)
        network = build_network(checkpoint.config.model_copy(update={"weights": "none"}))
        load_into(network, checkpoint.state, path)
        return network, checkpoint

    def save(self, network: SegmentationNetwork, made_from: Checkpoint, history: History) -> None:
        """Write the model and its history as this stage's result, and forget the training state."""
        if self.runtime.is_main:
            with self.output() as folder:
                made_by = {"stage": self.label, "fingerprint": self.fingerprint, "atp": atp.__version__}
                save_checkpoint(folder / "model.safetensors", network, made_from.config, made_from.label_space, made_by)
                write_history(folder / "history.csv", history)
            forget(self.label)
        self.runtime.barrier()

    @contextmanager
    def output(self) -> Iterator[Path]:
        """A temporary folder that becomes this stage's result if all goes well."""
        temporary = self.folder.with_name(f".{self.folder.name}.{os.getpid()}.tmp")
        temporary.mkdir(parents=True)
        try:
            yield temporary
            shutil.rmtree(self.folder, ignore_errors=True)
            temporary.replace(self.folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def forget(label: str) -> None:
    """Delete all states of a stage."""
    for path in STATE.glob(f"{label}-*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_history(path: Path, history: History) -> None:
    """One line a record, as DVC and everyone else can plot it."""
    names = list(history)
    rows = [",".join(names), *(",".join(f"{v:.6g}" for v in row) for row in zip(*history.values(), strict=True))]
    path.write_text("\n".join(rows) + "\n")


def write_json(path: Path, tree: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(tree, indent=2) + "\n")


def run_stage(
    name: str,
    body: Callable[[Stage], None],
    inputs: Callable[[Params, str | None], Sequence[Path]],
    *,
    rounds: bool = False,
    sealed: bool = True,
) -> None:
    """Run a stage as a command; never returns normally on bad input.

    Args:
        name: of the stage, its module and its section.
        body: does the work.
        inputs: files and folders that the result depends on.
        rounds: the command takes ``--round``.
        sealed: the stage may open neither the source data nor any label of the target.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    parser = argparse.ArgumentParser(prog=f"python -m atp.stages.{name}", description=f"Stage {name} of dvc.yaml.")
    if rounds:
        parser.add_argument("--round", required=True, help="key of the round in params.yaml")
    key: str | None = vars(parser.parse_args()).get("round")
    with exit_codes():
        params = load_params()
        if key is not None and key not in params.rounds:
            raise InputError(f"params.yaml: rounds has no {key}; it has {', '.join(params.rounds)}")
        die_with_parent()
        if sealed:
            seal(params)
        label = f"{name}@{key}" if key else name
        with open_runtime(params.training, params.runtime) as runtime, lock(label, runtime):
            remove_leftovers(Path("runs") / name / (key or ""))
            with open_tracker(label, params, enabled=runtime.is_main) as tracker:
                stage = Stage(name, key, params, runtime, list(inputs(params, key)), tracker)
                body(stage)
                tracker.finish(stage.folder, stage.fingerprint)


@contextmanager
def exit_codes() -> Iterator[None]:
    """Bad input and a full disk end the process with one line and code 2, without a traceback."""
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(
            f"error: {error.filename or Path.cwd()}: the disk is full; free some space and run again", file=sys.stderr
        )
        sys.exit(2)


def die_with_parent() -> None:
    """Ask the kernel to end this process with the one that started it (Linux; elsewhere nothing happens).

    Killing ``dvc`` would otherwise leave its stage training on beside the next one.
    """
    if sys.platform == "linux":
        parent, pr_set_pdeathsig = os.getppid(), 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit("the process that started this stage has ended")


@contextmanager
def lock(label: str, runtime: Runtime) -> Iterator[None]:
    """Only one process, or one group of ``torchrun``'s, works on a stage at a time.

    Raises:
        InputError: another one does.
    """
    if not runtime.is_main:
        yield
        return
    STATE.mkdir(parents=True, exist_ok=True)
    with (STATE.parent / f"{label}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{file.name}: another process runs the stage {label}; wait for it or end it") from error
        yield


def remove_leftovers(folder: Path) -> None:
    """Delete temporary folders of a killed run; the lock is held, so nobody is writing them."""
    for path in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(path)


def seal(params: Params) -> None:
    """From here on this process cannot open the source data or a label of the target.

    An audit hook cannot be taken back and is inherited by forked workers: source-freeness does not hang on a path
    in a stage being right.
    """
    data = params.data
    closed = [data.source.root, data.target.labels, data.test.labels, data.test.images]
    prefixes = tuple(f"{path.resolve()}{os.sep}" for path in closed if path is not None)
    files = {str(path.resolve()) for path in closed if path is not None and path.is_file()}

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        path = os.path.abspath(os.fsdecode(arguments[0]))  # noqa: PTH100 - Path would do more work on every open
        if path.startswith(prefixes) or path in files:
            raise PermissionError(errno.EACCES, "sealed: this stage works without source data and target labels", path)

    sys.addaudithook(refuse)
