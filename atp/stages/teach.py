"""Stage ``teach``: bidirectional self-training on positive and negative pseudo labels (Sec. 3.2, Eqs. 5-8)."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from atp.config import Params, TeachSection
from atp.data.folder import Sample
from atp.data.loading import Batch, Labels, TrainingImages
from atp.losses.pseudo_label import negative_pseudo_label_loss, positive_pseudo_label_loss
from atp.models.network import SegmentationNetwork
from atp.pseudo_labels.negatives import negative_labels
from atp.pseudo_labels.store import PseudoLabelStore
from atp.stages.stage import Stage, run_stage
from atp.training.ema import AveragedNetwork
from atp.training.loop import History, Training
from atp.training.mixing import class_mix_masks, mix
from atp.training.run import Run


def teach(
    network: SegmentationNetwork,
    images: TrainingImages,
    section: TeachSection,
    negative_threshold: float,
    run: Run,
) -> tuple[SegmentationNetwork, History]:
    """Train on pseudo labels; ``network`` changes in place.

    Returns:
        What the stage hands on, the network or its average, and the history.
    """
    ema = AveragedNetwork(network, section.ema) if section.ema else None

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        strong, positives, negatives, valid = batch.strong, batch.labels, batch.negatives, batch.valid
        if section.class_mix:
            masks = class_mix_masks(positives)
            strong = mix(masks, strong, strong.roll(1, 0))
            positives = mix(masks, positives, positives.roll(1, 0))
            negatives = mix(masks, negatives, negatives.roll(1, 0))
            valid = mix(masks, valid, valid.roll(1, 0))
        logits = model(strong)
        if section.negatives == "online":
            negatives = negative_labels(logits.detach().float().softmax(1), negative_threshold)
        positive = positive_pseudo_label_loss(logits, positives, valid)  # Eq. 5
        losses = {"loss": section.positive * positive, "positive": positive}
        if section.negative > 0:
            losses["negative"] = negative_pseudo_label_loss(logits, negatives, valid)  # Eq. 7
            losses["loss"] = losses["loss"] + section.negative * losses["negative"]
        return losses

    history = Training(network, section, images, run, ema=ema).run(objective)
    return (ema.network if ema else network), history


@dataclass(frozen=True)
class StoredLabels:
    """An image's pseudo labels from the store; a class for the same reason as ``FolderLabels``."""

    store: PseudoLabelStore
    negatives: bool

    def __call__(self, sample: Sample) -> Labels:
        return Labels(self.store.positive(sample.name), self.store.negatives(sample.name) if self.negatives else None)


def inputs(params: Params, key: str | None) -> list[Path]:
    assert key is not None, "run_stage asks for it"
    return [params.data.target.images, params.rounds[key].model, Path("runs/dump") / key]


def body(stage: Stage) -> None:
    assert stage.key is not None, "run_stage asks for it"
    section, data = stage.params.teach, stage.params.data
    network, taught = stage.begin(stage.params.rounds[stage.key].model)
    store = PseudoLabelStore(Path("runs/dump") / stage.key)
    images = TrainingImages(
        stage.target_images(),
        section.augmentation,
        size=data.size,
        crop=data.crop,
        labels=StoredLabels(store, negatives=section.negative > 0 and section.negatives == "dumped"),
        cache=stage.cache(),
    )
    handed_on, history = teach(network, images, section, stage.params.dump.negative_threshold, stage.run())
    stage.hand_on(handed_on, taught, history)


def main() -> None:
    run_stage("teach", body, inputs, rounds=True)


if __name__ == "__main__":
    main()
