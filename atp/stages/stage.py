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
from atp.evidence.measure import spread
from atp.evidence.record import Evidence, Shares, write_evidence
from atp.evidence.vanished import warning
from atp.files import digest
from atp.models.checkpoint import Checkpoint, load_checkpoint, restored, save_checkpoint
from atp.models.network import NetworkConfig, SegmentationNetwork
from atp.models.own import check_code
from atp.stages.beside import open_stage_tracker
from atp.stages.guard import Beginning, beginning, evidence_of, reverted
from atp.stages.parent import die_with_parent
from atp.stages.process import STATE, lock, output, remove_leftovers, seal, write_json
from atp.tracking import Tracker
from atp.training.loop import History
from atp.training.resume import ResumeFile
from atp.training.run import Run
from atp.training.runtime import Runtime, open_runtime

__all__ = ["CODE", "Stage", "forget", "run_stage", "write_history", "write_json"]

logger = logging.getLogger(__name__)

CODE = ("black_box", "data", "losses", "models", "pseudo_labels", "rivals", "training")
"""Folders of this package whose change changes what is trained or dumped."""


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
        """Of the inputs' bytes, the parameters and the code: equal fingerprints train equal models.

        What the section ``evidence`` makes of a model is not among them: a training that the guard stopped is not
        repeated where the guard is set otherwise.
        """
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
        if self.params.training.precision == "auto" and self.runtime.is_main:
            logger.info("%s: computes in %s", self.label, self.runtime.precision)
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
        config = self.params.network(space)
        check_code(config)
        return config

    def load(self, folder: Path) -> tuple[SegmentationNetwork, Checkpoint]:
        """The model that a stage left in its folder."""
        path = folder / "model.safetensors"
        checkpoint = load_checkpoint(path)
        return restored(checkpoint, path), checkpoint

    def begin(self, folder: Path) -> tuple[SegmentationNetwork, Beginning]:
        """The model that a training stage takes up, and what was measured of it without labels.

        Raises:
            InputError: there is none, or nothing was measured of it that this stage could be compared with.
        """
        network, checkpoint = self.load(folder)
        return network, beginning(folder, checkpoint, len(self._judged_on()))

    def hand_on(self, network: SegmentationNetwork, begun: Beginning, history: History) -> None:
        """Judge the model without labels, and write it, its history and the evidence as this stage's result.

        Raises:
            InputError: it collapsed and ``evidence.on_collapse`` is ``stop``. Nothing is written; the training state
                stays, so that another setting of the guard does not train the same again.
        """
        judged = self._judge(network, begun) if self.runtime.is_main else None
        stopped = self.runtime.from_main(judged is not None and judged[2])
        if judged is None:
            if stopped:
                sys.exit(2)
            self.runtime.barrier()
            return
        evidence, shares, stop = judged
        if stop:
            raise InputError(
                f"{self.label}: its model collapsed, and nothing is handed on: {evidence['why']}; change the section "
                f"{self.name}, or set evidence.on_collapse to revert or warn, which does not train it again"
            )
        if evidence["reverted"] and begun.folder is not None:
            network, _ = self.load(begun.folder)
        self._write(network, begun.checkpoint, history, (evidence, shares))
        self.runtime.barrier()

    def _judge(self, network: SegmentationNetwork, begun: Beginning) -> tuple[Evidence, Shares, bool]:
        """The evidence, told and tracked, and whether the stage stops because of it."""
        started = self.load(begun.folder)[0] if begun.folder else None
        evidence, shares = evidence_of(
            network, started, begun, self._judged_on(), self.params.data.size, self.runtime, self.label
        )
        self.tracker.log(0, {f"evidence_{name}": value for name, value in evidence["after"].items()})
        lost = warning(shares)
        self.tracker.tag({"atp.verdict": evidence["verdict"], "atp.vanished": lost or "none"})
        collapsed, guard = evidence["verdict"] == "collapsed", self.params.evidence.on_collapse
        # A first model that collapsed has none to go back to.
        stop = collapsed and (guard == "stop" or (guard == "revert" and begun.folder is None))
        if collapsed and guard == "revert" and not stop:
            evidence, shares = reverted(evidence, shares, begun)
        if not stop:
            logger.log(
                logging.WARNING if collapsed else logging.INFO,
                "%s: %s, seen without labels: %s",
                self.label,
                evidence["verdict"],
                evidence["why"],
            )
            if lost:
                logger.warning("%s: %s", self.label, lost)
        return evidence, shares, stop

    def _judged_on(self) -> list[Sample]:
        return spread(self.target_images(), self.params.evidence.images)

    def save(self, network: SegmentationNetwork, made_from: Checkpoint, history: History) -> None:
        """Write a model that nothing judges, and its history, as this stage's result."""
        if self.runtime.is_main:
            self._write(network, made_from, history, None)
        self.runtime.barrier()

    def _write(
        self,
        network: SegmentationNetwork,
        made_from: Checkpoint,
        history: History,
        judged: tuple[Evidence, Shares] | None,
    ) -> None:
        """On the main process: all at once, and forget the training state."""
        with self.output() as folder:
            made_by = {
                "stage": self.label,
                "fingerprint": self.fingerprint,
                "precision": self.runtime.precision,
                "atp": atp.__version__,
            }
            save_checkpoint(folder / "model.safetensors", network, made_from.config, made_from.label_space, made_by)
            write_history(folder / "history.csv", history)
            if judged is not None:
                write_evidence(folder, *judged)
        forget(self.label)

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
        # Of several processes each is started by PyTorch's launcher.
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
