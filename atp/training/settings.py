"""The sections ``training`` and ``runtime``, and the settings common to all training stages."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import model_validator

from atp.data.settings import Augmentation
from atp.settings import Count, Flag, NonNegative, Positive, Section, Share, Whole


class TrainingSettings(Section):
    """Settings shared by all training stages that affect their results.

    Attributes:
        seed: random seed; each stage combines it with its name.
        precision: precision of the forward and backward pass under autocast; weights stay float32. ``auto`` is bf16 on
            a device with native support, else fp32, since emulation is many times slower.
        channels_last: use the channels-last memory format for weights and activations.
    """

    seed: Whole = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    channels_last: Flag = True


class RuntimeSettings(Section):
    """Hardware and speed. These settings do not affect results, and DVC does not track them.

    Attributes:
        device: ``auto`` is CUDA if available, else the CPU.
        processes: number of processes of a stage, started by PyTorch's launcher; 0 uses one per GPU. Each computes
            BatchNorm's statistics on its part of the batch.
        workers: number of processes that load training images, and of threads that read and write while a network goes
            over images without training; 0 does it in the process itself.
        threads: PyTorch's CPU threads; 0 keeps its default. On the CPU, the number may change the last bits.
        prepared_mb: disk for images that are decoded and resized once for all processes and stages, in MB: so much for
            the target's, and as much for all others; 0 decodes them at every use.
        save_every_s: seconds between saves of the training state; 0 saves after every step.
        save_unjudged: save a model whose evidence could not be measured, without evidence; false fails its stage and
            keeps the training.
        system_metrics_s: seconds between two samples of the machine's load in MLflow; 0 takes none.
    """

    device: str = "auto"
    processes: Whole = 1
    workers: Whole = 0
    threads: Whole = 0
    prepared_mb: Whole = 8192
    save_every_s: NonNegative = 30.0
    save_unjudged: Flag = False
    system_metrics_s: NonNegative = 10.0


class Optimisation(Section):
    """SGD with the "poly" schedule.

    Paper: 2.5e-4, for the classifier 2.5e-3 outside align, momentum 0.9, weight decay 5e-4, power 0.9 (Sec. 4.2).

    Attributes:
        epochs: passes over the training images; None if ``steps`` is given.
        steps: number of steps, in place of ``epochs``.
        batch_size: images per step, over all processes.
        lr: initial learning rate of the backbone.
        classifier_lr_factor: learning rate of the classifier, as a multiple of ``lr``.
        momentum: SGD's momentum.
        weight_decay: SGD's weight decay.
        power: exponent of the poly schedule, lr * (1 - step / steps) ** power.
        warmup_steps: steps of linear warm-up.
        batchnorm: ``train`` normalises by the batch and re-estimates the running statistics, ``eval`` keeps them fixed.
        augmentation: see ``Augmentation``.
    """

    epochs: Count | None = None
    steps: Count | None = None
    batch_size: Count
    lr: Positive
    classifier_lr_factor: Positive = 1.0
    momentum: Share = 0.9
    weight_decay: NonNegative = 5e-4
    power: NonNegative = 0.9
    warmup_steps: Whole = 0
    batchnorm: Literal["train", "eval"] = "train"
    augmentation: Augmentation = Augmentation()

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.epochs is None and self.steps is None:
            raise ValueError("has neither epochs nor steps; add one of them")
        if self.epochs is not None and self.steps is not None:
            raise ValueError("has both epochs and steps; remove one, or set it to null")
        return self


def with_length(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Complete changes of an ``Optimisation``, so that ``steps`` replaces earlier ``epochs`` and the reverse."""
    other = {"epochs": "steps", "steps": "epochs"}
    return {other[name]: None for name in other if changes.get(name) is not None} | dict(changes)
