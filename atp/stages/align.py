"""Stage ``align``: implicit feature alignment by curriculum entropy and diversity (Sec. 3.1, Eqs. 2-4), or a rival."""

from importlib import import_module
from pathlib import Path

from torch import Tensor, nn

from atp.config import ATP, AlignSection, Params, needed, rival_settings
from atp.data.loading import Batch, TrainingImages
from atp.losses.diversity import diversity_loss
from atp.losses.entropy import curriculum_entropy_loss, rising_entropy_share
from atp.models.network import SegmentationNetwork
from atp.stages.guard import SOURCE
from atp.stages.stage import Stage, run_stage
from atp.training.loop import History, Training
from atp.training.run import Run


def align(network: SegmentationNetwork, images: TrainingImages, section: AlignSection, run: Run) -> History:
    """Align the target's features with the source classifier; ``network`` changes in place, its classifier not at all
    where ``section.freeze_classifier`` says so. Where ``section.method`` names a rival, that adapts the network."""
    if section.method != ATP:
        return adapt_by_rival(network, images, section, run)
    if section.freeze_classifier:
        network.freeze_classifier()

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = model(batch.strong)
        entropy = curriculum_entropy_loss(
            logits, batch.valid, gamma=section.gamma, weight_grad=section.weight_grad
        )  # Eq. 2
        diversity = diversity_loss(
            logits,
            batch.valid,
            sharpness=section.sharpness,
            weighted=section.weighted,
            per_image=section.per_image,
        )  # Eq. 3
        return {
            "loss": section.alpha * entropy + section.diversity * diversity,
            "entropy": entropy,
            "diversity": diversity,
            "rising_entropy": rising_entropy_share(logits, batch.valid, section.gamma),
        }

    return Training(network, section, images, run).run(objective)


def adapt_by_rival(network: SegmentationNetwork, images: TrainingImages, section: AlignSection, run: Run) -> History:
    """Another method on the same network, images and schedule, with its own learning rate and length.

    Raises:
        InputError: the rival has no such setting, or cannot adapt this network.
    """
    rival, settings = import_module(f"atp.rivals.{section.method}"), rival_settings(section)
    epochs, lr = settings.epochs or section.epochs, section.lr * settings.lr_factor
    history: History = rival.adapt(
        network, images, section.model_copy(update={"epochs": epochs, "lr": lr}), settings, run
    )
    return history


def inputs(params: Params, key: str | None) -> list[Path]:
    return [params.data.target.images, SOURCE]


def body(stage: Stage) -> None:
    section, data = needed(stage.params.align, "align"), stage.params.data
    network, source = stage.begin(SOURCE)
    images = TrainingImages(
        stage.target_images(), section.augmentation, size=data.size, crop=data.crop, cache=stage.cache()
    )
    history = align(network, images, section, stage.run())
    stage.hand_on(network, source, history)


def main() -> None:
    run_stage("align", body, inputs)


if __name__ == "__main__":
    main()
