"""Stage ``distill``: a student that learns what a black box answered about the target images (Sec. 3.4, Eq. 11)."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from atp.black_box.answers import AnswerStore
from atp.config import DistillSection, Params, needed
from atp.data.folder import Sample
from atp.data.labels import IGNORE
from atp.data.loading import Batch, Labels, TrainingImages
from atp.losses.distillation import dense_probabilities, distillation_loss
from atp.models.checkpoint import Checkpoint
from atp.models.network import SegmentationNetwork, build_network
from atp.stages.guard import Beginning
from atp.stages.stage import Stage, run_stage
from atp.training.loop import History, Training
from atp.training.run import Run

ANSWERS = Path("runs/query/target")


def distill(network: SegmentationNetwork, images: TrainingImages, section: DistillSection, run: Run) -> History:
    """Learn the answers; ``network`` changes in place."""

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = model(batch.strong)
        classes, probabilities = batch.classes, batch.probabilities
        if section.answers == "hard":
            classes = batch.labels[:, None]
            probabilities = torch.ones_like(classes, dtype=torch.float32)
        # On the device: dense probabilities are not moved there.
        target = dense_probabilities(classes, probabilities, network.num_classes)
        return {"loss": distillation_loss(logits, target, batch.valid & (batch.labels != IGNORE))}  # Eq. 11

    return Training(network, section, images, run).run(objective)


@dataclass(frozen=True)
class StoredAnswers:
    """A black box's answer about an image from the store; a class for the same reason as ``FolderLabels``."""

    store: AnswerStore
    soft: bool

    def __call__(self, sample: Sample) -> Labels:
        answer = self.store.answer(sample.name)
        if not self.soft:
            return Labels(answer.classes[0])
        return Labels(answer.classes[0], classes=answer.classes, probabilities=answer.probabilities)


def inputs(params: Params, key: str | None) -> list[Path]:
    return [params.data.target.images, ANSWERS, *params.model.own_code]


def body(stage: Stage) -> None:
    section, data = needed(stage.params.distill, "distill"), stage.params.data
    store = AnswerStore(ANSWERS)
    space = store.label_space
    config = stage.network_config(space)
    torch.manual_seed(stage.seed)
    network = build_network(config)
    images = TrainingImages(
        stage.target_images(),
        section.augmentation,
        size=data.size,
        crop=data.crop,
        labels=StoredAnswers(store, soft=section.answers == "soft"),
        cache=stage.cache(),
    )
    history = distill(network, images, section, stage.run())
    made_from = Checkpoint(config=config, label_space=space, state={}, made_by={})
    stage.hand_on(network, Beginning(made_from), history)


def main() -> None:
    run_stage("distill", body, inputs)


if __name__ == "__main__":
    main()
