"""What a training stage made, judged without labels before it is handed on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from atp.data.folder import Sample
from atp.errors import InputError
from atp.evaluation.evidence.measure import Measurement, indicators, measure
from atp.evaluation.evidence.record import FILE, Evidence, Shares, read_evidence, read_shares
from atp.evaluation.evidence.verdict import judge
from atp.models.checkpoint import Checkpoint
from atp.models.network import SegmentationNetwork
from atp.runs import SOURCE
from atp.training.runtime import Runtime


@dataclass(frozen=True)
class Beginning:
    """What a training stage begins with.

    Attributes:
        checkpoint: network and classes; of a student that learns from nothing, without a state.
        folder: of the model; None where there is none to go back to.
        evidence, shares: what its own stage measured of it; None of the source model, and where there is none.
    """

    checkpoint: Checkpoint
    folder: Path | None = None
    evidence: Evidence | None = None
    shares: Shares | None = None


def beginning(folder: Path, checkpoint: Checkpoint, images: int) -> Beginning:
    """What a stage begins with that takes up the model of this folder.

    Args:
        images: on how many its evidence must have been measured.

    Raises:
        InputError: nothing was measured of it, or on other images; told before hours are spent on training.
    """
    if folder == SOURCE:
        return Beginning(checkpoint, folder)
    evidence = read_evidence(folder)
    if evidence["images"] != images:
        raise InputError(
            f"{folder / FILE}: measured on {evidence['images']} images, but evidence.images in params.yaml makes it "
            f"{images} now; run that stage again, as dvc repro does"
        )
    return Beginning(checkpoint, folder, evidence, read_shares(folder))


def evidence_of(
    made: SegmentationNetwork,
    started: SegmentationNetwork | None,
    begun: Beginning,
    samples: Sequence[Sample],
    size: tuple[int, int] | None,
    runtime: Runtime,
    name: str,
) -> tuple[Evidence, Shares]:
    """Measure and judge what a stage made.

    Args:
        made: the model.
        started: the one that the stage began with.
        begun: what is known of that one; if nothing is, it is measured too.
        samples: target images.
        name: of the stage, for the progress.

    Returns:
        As if ``made`` is what is handed on.
    """
    names = begun.checkpoint.label_space.names

    def measured(network: SegmentationNetwork, before: SegmentationNetwork | None, which: str) -> Measurement:
        return measure(network, samples, size, runtime, before=before, name=f"{name}, evidence of {which}")

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
    evidence = Evidence(
        images=len(samples), verdict=verdict, why=why, reverted=False, source=source, before=before, after=after
    )
    return evidence, {"source": _named(names, of_source), "after": _named(names, own.marginal)}


def reverted(evidence: Evidence, shares: Shares, begun: Beginning) -> tuple[Evidence, Shares]:
    """The same where the model is handed on that the stage began with."""
    why = f"{evidence['why']}; the model that the stage began with is handed on instead"
    after = (begun.shares or {"after": shares["source"]})["after"]
    return {**evidence, "reverted": True, "why": why, "after": evidence["before"]}, {**shares, "after": after}


def _named(names: Sequence[str], shares: Tensor) -> dict[str, float]:
    return {name: round(float(share), 6) for name, share in zip(names, shares, strict=True)}
