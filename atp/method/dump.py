"""Positive and negative pseudo labels from one pass over the target images (Sec. 3.2, Eqs. 4 and 6)."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atp.data.labels import LabelSpace
from atp.data.loading import Images
from atp.method.settings import DumpSettings
from atp.models.network import SegmentationNetwork
from atp.pseudo_labels.store import PseudoLabelWriter, Table
from atp.training.prediction import Predictor, chunks, read_chunks
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
    with Progress(name, total, total - sum(len(part) for part in left), enabled=runtime.is_main) as progress:
        for part, images in read_chunks(left, target.size):
            for sample, probabilities in zip(part, predictor.probabilities(images), strict=True):
                if sample.name not in done:
                    writer.add(sample.name, probabilities)
            progress.advance(len(part))
    runtime.barrier()
    table = None
    if runtime.is_main:
        table = writer.finish(folder, label_space, [sample.name for sample in target.samples], extra or {})
    runtime.barrier()
    return table
