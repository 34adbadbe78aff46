"""The sections ``training`` and ``runtime``, and what every training stage can set."""

from typing import Literal

from atp.data.settings import Augmentation
from atp.settings import Count, Flag, NonNegative, Positive, Section, Share, Whole


class TrainingSettings(Section):
    """What all training stages share and what changes their result.

    Attributes:
        seed: of everything random; stages mix it with their own name.
        precision: arithmetic of the forward and backward pass under autocast; weights stay float32. ``auto`` is bf16
            on a device that computes in it, fp32 on one that would only imitate it, many times slower.
        channels_last: memory format of weights and activations.
    """

    seed: Whole = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    channels_last: Flag = True


class RuntimeSettings(Section):
    """Where and how fast; nothing here changes a result, and DVC does not track it.

    Attributes:
        device: ``auto`` takes CUDA where it is, else the CPU.
        processes: that share the work of a stage, by PyTorch's launcher; 0 takes one for each GPU. Each computes
            BatchNorm's statistics on its part of the batch.
        workers: data loading processes; 0 loads in the training process.
        threads: CPU threads of PyTorch; 0 leaves its own choice. On the CPU another number may change the last bits.
        cache_mb: memory for decoded images, per process.
        save_every_s: seconds between two saved training states; 0 saves after every step.
    """

    device: str = "auto"
    processes: Whole = 1
    workers: Whole = 0
    threads: Whole = 0
    cache_mb: Whole = 2048
    save_every_s: NonNegative = 30.0


class Optimisation(Section):
    """SGD with the "poly" schedule.

    Paper: 2.5e-4, for the classifier 2.5e-3 outside align, momentum 0.9, weight decay 5e-4, power 0.9 (Sec. 4.2).

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step, over all processes.
        lr: learning rate of the backbone at the start.
        classifier_lr_factor: the classifier learns this much faster.
        momentum: of SGD.
        weight_decay: of SGD.
        power: of the poly schedule, lr * (1 - step / steps) ** power.
        warmup_steps: linear increase before it.
        batchnorm: ``train`` normalises by the batch and re-estimates the running statistics, ``eval`` holds them.
        augmentation: see there.
    """

    epochs: Count
    batch_size: Count
    lr: Positive
    classifier_lr_factor: Positive = 1.0
    momentum: Share = 0.9
    weight_decay: NonNegative = 5e-4
    power: NonNegative = 0.9
    warmup_steps: Whole = 0
    batchnorm: Literal["train", "eval"] = "train"
    augmentation: Augmentation = Augmentation()
