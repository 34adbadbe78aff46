"""What training stages share: loading the initial model, and judging and saving the trained one without labels."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

from atp.data.folder import Sample, evenly_spread, list_samples
from atp.errors import InputError
from atp.evaluation.evidence.guard import Beginning, beginning, evidence_of, reverted
from atp.evaluation.evidence.record import Evidence, Shares, write_evidence
from atp.evaluation.evidence.vanished import warning
from atp.models.network import SegmentationNetwork
from atp.runner.stage import Stage
from atp.training.loop import History

logger = logging.getLogger(__name__)


def begin(stage: Stage, folder: Path) -> tuple[SegmentationNetwork, Beginning]:
    """The model that a training stage starts from, and its evidence without labels.

    Raises:
        InputError: there is no model, or no evidence to compare this stage with.
    """
    network, checkpoint = stage.load(folder)
    return network, beginning(folder, checkpoint, len(_judged_on(stage)))


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
        InputError: the model collapsed and ``evidence.on_collapse`` is ``stop``. Nothing is written; the training state
            is kept, so that changing the guard does not repeat the training.
    """
    judged = _judge(stage, network, begun) if stage.runtime.is_main else None
    stopped = stage.runtime.from_main(judged is not None and judged[2])
    if judged is None:
        if stopped:
            sys.exit(2)
        stage.runtime.barrier()
        return
    evidence, shares, stop = judged
    if stop:
        raise InputError(
            f"{stage.label}: its model collapsed and was not saved: {evidence['why']}; change the section "
            f"{stage.name}, or set evidence.on_collapse to revert or warn, which does not repeat the training"
        )
    if evidence["reverted"] and begun.folder is not None:
        network, _ = stage.load(begun.folder)

    def write(folder: Path) -> None:
        write_evidence(folder, evidence, shares)
        if not evidence["reverted"]:
            also(folder)

    stage.save(network, begun.checkpoint, history, write)


def _judge(stage: Stage, network: SegmentationNetwork, begun: Beginning) -> tuple[Evidence, Shares, bool]:
    """Measure, log and track the evidence; returns whether it stops the stage."""
    started = stage.load(begun.folder)[0] if begun.folder else None
    evidence, shares = evidence_of(
        network, started, begun, _judged_on(stage), stage.params.data.reading, stage.runtime, stage.label
    )
    stage.tracker.log(0, {f"evidence_{name}": value for name, value in evidence["after"].items()})
    lost = warning(shares)
    stage.tracker.tag({"atp.verdict": evidence["verdict"], "atp.vanished": lost or "none"})
    collapsed, guard = evidence["verdict"] == "collapsed", stage.params.evidence.on_collapse
    # If the first model collapsed, there is no earlier one to revert to.
    stop = collapsed and (guard == "stop" or (guard == "revert" and begun.folder is None))
    if collapsed and guard == "revert" and not stop:
        evidence, shares = reverted(evidence, shares, begun)
    if not stop:
        level = logging.WARNING if collapsed else logging.INFO
        logger.log(level, "%s: %s, judged without labels: %s", stage.label, evidence["verdict"], evidence["why"])
        if lost:
            logger.warning("%s: %s", stage.label, lost)
    return evidence, shares, stop


def _judged_on(stage: Stage) -> list[Sample]:
    return evenly_spread(list_samples(stage.params.data.target.images), stage.params.evidence.images)
