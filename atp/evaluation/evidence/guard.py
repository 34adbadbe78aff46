"""Label-free assessment of a training stage's model before it is saved."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from atp.data.folder import Sample
from atp.data.prepared import UNPREPARED, Prepared
from atp.data.reading import Reading
from atp.errors import InputError
from atp.evaluation.evidence.measure import Measurement, indicators, measure
from atp.evaluation.evidence.record import FILE, Evidence, Shares, read_evidence, read_shares
from atp.evaluation.evidence.verdict import judge, worse
from atp.models.checkpoint import Checkpoint
from atp.models.network import SegmentationNetwork
from atp.runs import SOURCE
from atp.training.runtime import Runtime


@dataclass(frozen=True)
class Beginning:
    """The model from which a training stage starts.

    Attributes:
        checkpoint: network and classes; without a state for a student trained from scratch.
        folder: the model's folder; None if there is no model to revert to.
        evidence, shares: measured by the model's own stage; None for the source model, for one that was saved without
            evidence, and if there is none.
    """

    checkpoint: Checkpoint
    folder: Path | None = None
    evidence: Evidence | None = None
    shares: Shares | None = None


def beginning(folder: Path, checkpoint: Checkpoint, images: int, *, optional: bool = False) -> Beginning:
    """Read the start model and its evidence, before training begins.

    Args:
        images: required number of images of its evidence.
        optional: the model may have been saved without evidence.

    Raises:
        InputError: if its evidence is missing, or was measured on another number of images.
    """
    if folder == SOURCE or (optional and not (folder / FILE).is_file()):
        return Beginning(checkpoint, folder)
    evidence = read_evidence(folder)
    if evidence["images"] != images:
        raise InputError(
            f"{folder / FILE}: measured on {evidence['images']} images, but evidence.images in params.yaml now gives "
            f"{images}; run that stage again, as dvc repro does"
        )
    return Beginning(checkpoint, folder, evidence, read_shares(folder))


def evidence_of(
    made: SegmentationNetwork,
    started: SegmentationNetwork | None,
    begun: Beginning,
    samples: Sequence[Sample],
    reading: Reading,
    runtime: Runtime,
    name: str,
    prepared: Prepared = UNPREPARED,
) -> tuple[Evidence, Shares]:
    """Measure a stage's model and give a verdict.

    Args:
        made: the stage's model.
        started: the model from which the stage started.
        begun: evidence of that model; if it has none, the model is measured too.
        samples: target images.
        name: name of the stage, for progress.
        prepared: images that need not be decoded again.

    Returns:
        Evidence and class shares, assuming that ``made`` is kept.
    """
    names = begun.checkpoint.label_space.names

    def measured(network: SegmentationNetwork, before: SegmentationNetwork | None, which: str) -> Measurement:
        return measure(
            network,
            samples,
            reading.size,
            runtime,
            window=reading.window,
            before=before,
            prepared=prepared,
            name=f"{name}, evidence of {which}",
        )

    own = measured(made, started, "its model")
    if begun.evidence is not None and begun.shares is not None:
        of_source = torch.tensor([begun.shares["source"][key] for key in names], dtype=torch.float64)
        source, before = begun.evidence["source"], begun.evidence["after"]
    else:
        first = own if started is None else measured(started, None, "the source model")
        of_source = first.marginal
        source = before = indicators(first, of_source)
    after = indicators(own, of_source)
    verdict, why = judge(source, after, len(names))
    if verdict != "collapsed" and (fallen := worse(before, after)):
        why += f", but {fallen}"
    evidence = Evidence(
        images=len(samples), verdict=verdict, why=why, reverted=False, source=source, before=before, after=after
    )
    return evidence, {"source": _named(names, of_source), "after": _named(names, own.marginal)}


def reverted(evidence: Evidence, shares: Shares, begun: Beginning) -> tuple[Evidence, Shares]:
    """Update evidence and shares for reverting to the model from which the stage started."""
    why = f"{evidence['why']}; reverted to the model from which the stage started"
    after = (begun.shares or {"after": shares["source"]})["after"]
    return {**evidence, "reverted": True, "why": why, "after": evidence["before"]}, {**shares, "after": after}


def _named(names: Sequence[str], shares: Tensor) -> dict[str, float]:
    return {name: round(float(share), 6) for name, share in zip(names, shares, strict=True)}
