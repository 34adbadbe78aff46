"""Stage ``source``: the model that is to be adapted, given or trained here with cross-entropy (Eq. 1)."""

from pathlib import Path

import torch
from torch import Tensor, nn

from atp.config import Params, SourceSection, needed
from atp.data.folder import check_sizes, list_samples
from atp.data.loading import Batch, FolderLabels, TrainingImages
from atp.losses.supervised import segmentation_cross_entropy
from atp.models.checkpoint import Checkpoint, load_into, load_user_state
from atp.models.network import SegmentationNetwork, build_network
from atp.stages.stage import Stage, run_stage
from atp.training.loop import History, Training
from atp.training.run import Run


def train_source(network: SegmentationNetwork, images: TrainingImages, section: SourceSection, run: Run) -> History:
    """Train on labelled images; ``network`` changes in place."""

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"loss": segmentation_cross_entropy(model(batch.strong), batch.labels)}

    return Training(network, section, images, run).run(objective)


def inputs(params: Params, key: str | None) -> list[Path]:
    return [params.data.source.root, *params.model.own_code]


def body(stage: Stage) -> None:
    section, data = needed(stage.params.source, "source"), stage.params.data
    space = data.label_space()
    config = stage.network_config(space)
    made_from = Checkpoint(config=config, label_space=space, state={}, made_by={})
    if section.checkpoint is not None:
        network = build_network(config.model_copy(update={"weights": "none"}))
        load_into(network, load_user_state(section.checkpoint), section.checkpoint)
        stage.save(network, made_from, History())
        return
    samples = list_samples(data.source.images, data.source.labels)
    check_sizes(samples)
    torch.manual_seed(stage.seed)
    network = build_network(config)
    cache = stage.cache()
    images = TrainingImages(
        samples,
        section.augmentation,
        size=data.source_size,
        crop=data.crop,
        labels=FolderLabels(space.num_classes, data.source_size, cache),
        cache=cache,
    )
    history = train_source(network, images, section, stage.run())
    stage.save(network, made_from, history)


def main() -> None:
    # The one stage that may read the source data.
    run_stage("source", body, inputs, sealed=False)


if __name__ == "__main__":
    main()
