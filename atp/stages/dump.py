"""Stage ``dump``: positive and negative pseudo labels by one pass over the target images (Sec. 3.2, Eqs. 4 and 6)."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atp.config import DumpSection, Params
from atp.data.folder import Sample
from atp.data.labels import LabelSpace
from atp.models.network import SegmentationNetwork
from atp.pseudo_labels.store import PseudoLabelWriter, Table
from atp.stages.stage import Stage, forget, run_stage
from atp.training.prediction import Predictor, chunks, read_chunks
from atp.training.progress import Progress
from atp.training.runtime import Runtime

logger = logging.getLogger(__name__)


def dump(
    networks: Sequence[tuple[SegmentationNetwork, float]],
    samples: Sequence[Sample],
    section: DumpSection,
    label_space: LabelSpace,
    size: tuple[int, int] | None,
    runtime: Runtime,
    *,
    pending: Path,
    folder: Path,
    name: str = "dump",
    extra: dict[str, Any] | None = None,
) -> Table | None:
    """Label every image; continues from ``pending`` and shares the images among the processes.

    Args:
        networks: each with its share of the averaged prediction.
        pending: where half-done work lies.
        folder: where the labels go once they are complete.
        extra: what else the table shall say.

    Returns:
        The table beside the labels on the main process, None on others.
    """
    writer = PseudoLabelWriter(
        pending,
        label_space.num_classes,
        negative_threshold=section.negative_threshold,
        keep_ratio=section.keep_ratio,
    )
    predictor = Predictor(networks, runtime, flip=section.flip, scales=section.scales)
    done = writer.done()
    # Whole chunks, even where only one of their images is missing: see ``chunks``.
    mine = chunks(samples, size)[runtime.rank :: runtime.world_size]
    left = [part for part in mine if any(sample.name not in done for sample in part)]
    total = sum(len(part) for part in mine)
    with Progress(name, total, total - sum(len(part) for part in left), enabled=runtime.is_main) as progress:
        for part, images in read_chunks(left, size):
            for sample, probabilities in zip(part, predictor.probabilities(images), strict=True):
                if sample.name not in done:
                    writer.add(sample.name, probabilities)
            progress.advance(len(part))
    runtime.barrier()
    table = None
    if runtime.is_main:
        table = writer.finish(folder, label_space, [sample.name for sample in samples], extra or {})
    runtime.barrier()
    return table


def label_target(stage: Stage, model: Path, folder: Path) -> Table | None:
    """``dump`` as stages call it: the model of one folder, perhaps averaged with the source model."""
    section = stage.params.dump
    network, checkpoint = stage.load(model)
    networks = [(network, 1 - section.source_weight)]
    if section.source_weight > 0:
        networks.append((stage.load(Path("runs/source"))[0], section.source_weight))
    return dump(
        networks,
        stage.target_images(),
        section,
        checkpoint.label_space,
        stage.params.data.size,
        stage.runtime,
        pending=stage.state,
        folder=folder,
        name=stage.label,
        extra={"made_by": {"stage": stage.label, "fingerprint": stage.fingerprint}},
    )


def labelling_inputs(params: Params, model: Path) -> list[Path]:
    averaged = [Path("runs/source")] if params.dump.source_weight > 0 else []
    return [params.data.target.images, model, *averaged]


def log_labels(stage: Stage, table: Table) -> None:
    """Coverage of the labels, overall and per class, in percent."""
    figures = {"coverage": 100 * table["coverage"]}
    figures |= {f"coverage_{row['name'].replace(' ', '_')}": 100 * row["coverage"] for row in table["classes"]}
    stage.tracker.log(0, figures)
    logger.info("%s: labels for %.1f %% of the pixels", stage.label, figures["coverage"])


def inputs(params: Params, key: str | None) -> list[Path]:
    assert key is not None, "run_stage asks for it"
    return labelling_inputs(params, params.rounds[key].model)


def body(stage: Stage) -> None:
    assert stage.key is not None, "run_stage asks for it"
    table = label_target(stage, stage.params.rounds[stage.key].model, stage.folder)
    if table is not None:
        forget(stage.label)
        log_labels(stage, table)
        stage.tracker.artifacts(stage.folder / "table.json")
    stage.runtime.barrier()


def main() -> None:
    run_stage("dump", body, inputs, rounds=True)


if __name__ == "__main__":
    main()
