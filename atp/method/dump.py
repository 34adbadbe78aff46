"""Positive and negative pseudo labels from one pass over the target images (Sec. 3.2, Eqs. 4 and 6)."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from atp.data.folder import Sample
from atp.data.labels import LabelSpace
from atp.data.loading import Images
from atp.method.settings import DumpSettings
from atp.models.network import SegmentationNetwork
from atp.pseudo_labels.store import PseudoLabelWriter, Table
from atp.training.prediction import Predictor, chunks, pass_over
from atp.training.progress import Progress
from atp.training.runtime import Runtime

logger = logging.getLogger(__name__)


def dump(
    networks: Sequence[tuple[SegmentationNetwork, float]],
    target: Images,
    settings: DumpSettings,
    label_space: LabelSpace,
    runtime: Runtime,
    *,
    pending: Path,
    folder: Path,
    name: str = "dump",
    extra: dict[str, Any] | None = None,
) -> Table | None:
    """Write pseudo labels for every image; resumes from ``pending`` and splits the images between processes.

    Args:
        networks: pairs of a network and its share of the averaged prediction.
        pending: folder of unfinished work.
        folder: destination of the labels once they are complete.
        extra: additional entries of the table.

    Returns:
        The table stored with the labels; None on processes other than the main one.
    """
    writer = PseudoLabelWriter(
        pending,
        label_space.num_classes,
        negative_threshold=settings.negative_threshold,
        keep_ratio=settings.keep_ratio,
        negative_cap=settings.negative_cap,
    )
    predictor = Predictor(networks, runtime, flip=settings.flip, scales=settings.scales, window=target.window)
    done = writer.done()
    # Whole chunks, even if only one of their images is missing: see ``chunks``.
    mine = chunks(target.samples, target.size, predictor.chunk)[runtime.rank :: runtime.world_size]
    left = [part for part in mine if any(sample.name not in done for sample in part)]
    total = sum(len(part) for part in mine)

    def add(sample: Sample, probabilities: Tensor) -> None:
        if sample.name not in done:
            writer.add(sample.name, probabilities)

    with Progress(name, total, total - sum(len(part) for part in left), enabled=runtime.is_main) as progress:
        for _ in pass_over(left, target.pixels, runtime, predictor.probabilities, add):
            progress.advance()
    runtime.barrier()
    table = None
    if runtime.is_main:
        names = [sample.name for sample in target.samples]
        table = writer.finish(folder, label_space, names, extra or {}, workers=runtime.workers)
    runtime.barrier()
    return table
