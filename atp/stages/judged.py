"""What training stages share: loading the initial model, and judging and saving the trained one without labels."""

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from atp.data.folder import Sample, evenly_spread, list_samples
from atp.errors import InputError, first_line
from atp.evaluation.evidence.guard import Beginning, beginning, evidence_of, reverted
from atp.evaluation.evidence.record import Evidence, Shares, write_evidence
from atp.evaluation.evidence.vanished import warning
from atp.evaluation.evidence.verdict import worse
from atp.models.network import SegmentationNetwork
from atp.runner.process import STATE
from atp.runner.stage import Stage
from atp.training.loop import History

logger = logging.getLogger(__name__)


def begin(stage: Stage, folder: Path) -> tuple[SegmentationNetwork, Beginning]:
    """The model that a training stage starts from, and its evidence without labels.

    Raises:
        InputError: there is no model, or no evidence to compare this stage with.
    """
    network, checkpoint = stage.load(folder)
    unjudged = stage.params.runtime.save_unjudged
    return network, beginning(folder, checkpoint, len(_judged_on(stage)), optional=unjudged)


def hand_on(
    stage: Stage,
    network: SegmentationNetwork,
    begun: Beginning,
    history: History,
    also: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Judge the model without labels and save it, its history and the evidence as the stage's result.

    Args:
        also: writes further files of the model into the folder, unless the model is reverted.

    Raises:
        InputError: the model collapsed and ``evidence.on_collapse`` is ``stop``, or it cannot be judged and
            ``runtime.save_unjudged`` is false. Nothing is written; the training state is kept, so that changing either
            does not repeat the training.
    """
    judged = _judge(stage, network, begun) if stage.runtime.is_main else None
    stopped = stage.runtime.from_main(judged is not None and judged.stop != "")
    if judged is None:
        if stopped:
            sys.exit(2)
        stage.runtime.barrier()
        return
    if judged.stop:
        raise InputError(f"{stage.label}: {judged.stop}")
    reverts = judged.evidence is not None and judged.evidence["reverted"]
    if reverts and begun.folder is not None:
        network, _ = stage.load(begun.folder)

    def write(folder: Path) -> None:
        if judged.evidence is not None:
            write_evidence(folder, judged.evidence, judged.shares)
        if not reverts:
            also(folder)

    stage.save(network, begun.checkpoint, history, write)


@dataclass(frozen=True)
class _Judged:
    """Evidence, None if it could not be measured, and why the stage must stop, empty if it must not."""

    evidence: Evidence | None = None
    shares: Shares = field(default_factory=dict)
    stop: str = ""


def _judge(stage: Stage, network: SegmentationNetwork, begun: Beginning) -> _Judged:
    """Measure, log and track the evidence."""
    try:
        started = stage.load(begun.folder)[0] if begun.folder else None
        judged_on, reading = _judged_on(stage), stage.params.data.reading
        evidence, shares = evidence_of(
            network, started, begun, judged_on, reading, stage.runtime, stage.label, stage.target().prepared
        )
    except Exception as error:  # A user's network may raise anything, and hours of training are not to be lost.
        return _unjudged(stage, error)
    stage.tracker.log(0, {f"evidence_{name}": value for name, value in evidence["after"].items()})
    lost = warning(shares)
    stage.tracker.tag({"atp.verdict": evidence["verdict"], "atp.vanished": lost or "none"})
    collapsed, guard = evidence["verdict"] == "collapsed", stage.params.evidence.on_collapse
    bad = collapsed or worse(evidence["before"], evidence["after"]) != ""
    # If the first model collapsed, there is no earlier one to revert to.
    if collapsed and (guard == "stop" or (guard == "revert" and begun.folder is None)):
        stop = (
            f"its model collapsed and was not saved: {evidence['why']}; change the section {stage.name}, or set "
            "evidence.on_collapse to revert or warn, which does not repeat the training"
        )
        return _Judged(evidence, shares, stop)
    if bad and guard == "revert":
        evidence, shares = reverted(evidence, shares, begun)
    level = logging.WARNING if bad else logging.INFO
    logger.log(level, "%s: %s, judged without labels: %s", stage.label, evidence["verdict"], evidence["why"])
    if lost:
        logger.warning("%s: %s", stage.label, lost)
    return _Judged(evidence, shares)


def _unjudged(stage: Stage, error: Exception) -> _Judged:
    why = str(error) if isinstance(error, InputError) else first_line(error)
    if stage.params.runtime.save_unjudged:
        logger.warning("%s: saved without evidence, since its model could not be judged: %s", stage.label, why)
        return _Judged()
    return _Judged(
        stop=f"its model is trained but could not be judged without labels: {why}; the training is kept in {STATE}: "
        "to save the model without evidence, set runtime.save_unjudged: true and run the same command again, which "
        "does not repeat the training"
    )


def _judged_on(stage: Stage) -> list[Sample]:
    return evenly_spread(list_samples(stage.params.data.target.images), stage.params.evidence.images)
