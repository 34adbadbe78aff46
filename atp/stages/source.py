"""Stage ``source``: the source model, given or trained here with cross-entropy (Eq. 1)."""

from pathlib import Path

import torch

from atp.data.folder import check_sizes, list_samples
from atp.data.loading import FolderLabels
from atp.data.reading import Reading
from atp.method.source import train_source
from atp.models.checkpoint import Checkpoint, load_into, load_user_state
from atp.models.network import build_network
from atp.params import Params, needed
from atp.runner.stage import Stage, run_stage
from atp.training.loop import History


def inputs(params: Params, key: str | None) -> list[Path]:
    return [params.data.source.root, *params.model.own_code]


def body(stage: Stage) -> None:
    section, data = needed(stage.params.source, "source"), stage.params.data
    space = data.label_space()
    config = stage.network_config(space)
    reading = Reading(data.source_size)
    made_from = Checkpoint(config=config, label_space=space, state={}, made_by={})
    if section.checkpoint is not None:
        network = build_network(config.model_copy(update={"weights": "none"}))
        load_into(network, load_user_state(section.checkpoint), section.checkpoint)
        stage.save(network, made_from, History(), reading=reading)
        return
    samples = list_samples(data.source.images, data.source.labels)
    check_sizes(samples)
    torch.manual_seed(stage.seed)
    network = build_network(config)
    images = stage.images(samples, data.source_size)
    labels = FolderLabels(space.num_classes, data.source_size, stage.prepared_labels(samples, space.num_classes))
    history = train_source(network, images.augmented(section.augmentation, labels), section, stage.run())
    stage.save(network, made_from, history, reading=reading)


def main() -> None:
    # The only stage that may read the source data.
    run_stage("source", body, inputs, sealed=False)


if __name__ == "__main__":
    main()
