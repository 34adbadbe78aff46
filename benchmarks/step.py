"""A training step of ATP, against the same step in a bare loop and against a plain PyTorch script.

    python benchmarks/step.py [--steps 30] [--repeats 9] [--size 160x80] [--backbone resnet_small] [--device auto]

All three train the same network from the same weights on the same files, with the same batch size, augmentation,
optimiser, schedule, precision and number of loading processes. They take turns, and ratios are those of one turn, since
other load on the machine affects times. CPU time, which it affects less, is that of the training process: compare it
without loading processes, and with OMP_NUM_THREADS=1, since waiting threads spin.

* ATP: ``train_source``.
* bare loop: ATP's loader, loss, optimiser and schedule in a loop of eight lines, which ends at bit-identical weights.
  The difference is the loop: it seeds every step, adds up the losses, shows progress and saves its state.
* plain script: what one would write without this project: a ``Dataset`` of PNGs with torchvision's v2 transforms, a
  ``DataLoader``, ``F.cross_entropy``, ``SGD`` and ``PolynomialLR``. It decodes every image in every epoch; ATP reads
  prepared images (``runtime.prepared_mb``) after the first one, which the measurement leaves out.
  ``--prepared-mb 0`` makes ATP decode, too.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from machine import machine
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.optim import SGD
from torch.optim.lr_scheduler import PolynomialLR
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from atp.data.folder import Sample, list_samples
from atp.data.loading import FolderLabels, TrainingImages, TrainingOrder, training_loader
from atp.data.prepared import Store
from atp.data.settings import Augmentation
from atp.losses.supervised import segmentation_cross_entropy
from atp.method.settings import SourceSettings
from atp.method.source import train_source
from atp.models.network import NetworkConfig, SegmentationNetwork, build_network
from atp.runner.resume import ResumeFile
from atp.training.optimisation import build_optimizer, build_schedule
from atp.training.run import Run
from atp.training.runtime import Runtime, open_runtime
from atp.training.settings import Optimisation, RuntimeSettings, TrainingSettings

CLASSES = 12
JITTER = 0.15


def bare(network: SegmentationNetwork, images: TrainingImages, section: Optimisation, runtime: Runtime) -> None:
    """The steps of ``train_source`` and nothing else."""
    order = TrainingOrder(len(images), section.batch_size, section.epochs, seed=0, steps=section.steps)
    loader = training_loader(images, order, workers=runtime.workers, pin_memory=runtime.device.type == "cuda")
    runtime.place(network)
    network.train()
    optimizer = build_optimizer(network, section)
    schedule = build_schedule(optimizer, section, order.steps)
    for batch in loader:
        batch = batch.to(runtime.device, runtime.memory_format)
        optimizer.zero_grad(set_to_none=True)
        with runtime.autocast():
            loss = segmentation_cross_entropy(network(batch.strong), batch.labels)
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """Images and labels from their files, augmented by torchvision."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples
        self.flip = v2.RandomHorizontalFlip()
        self.jitter = v2.ColorJitter(JITTER, JITTER, JITTER, JITTER / 4)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sample = self.samples[index]
        assert sample.label is not None
        with Image.open(sample.image) as image, Image.open(sample.label) as label:
            pair = v2.functional.pil_to_tensor(image), v2.functional.pil_to_tensor(label)[0]
        image, label = self.flip(tv_tensors.Image(pair[0]), tv_tensors.Mask(pair[1]))
        return self.jitter(image), label.long()


def plain(network: SegmentationNetwork, samples: Sequence[Sample], section: Optimisation, runtime: Runtime) -> None:
    """A script for the same training without ATP, except for its network."""
    device, pinned = runtime.device, runtime.device.type == "cuda"
    loader = DataLoader(
        Pairs(samples),
        section.batch_size,
        shuffle=True,
        num_workers=runtime.workers,
        drop_last=True,
        pin_memory=pinned,
    )
    network.to(device, memory_format=runtime.memory_format)  # type: ignore[call-overload]
    network.train()
    head = list(network.head.parameters())
    held = set(map(id, head))
    rest = [parameter for parameter in network.parameters() if id(parameter) not in held]
    groups: list[dict[str, Any]] = [{"params": rest}, {"params": head, "lr": section.lr * section.classifier_lr_factor}]
    optimizer = SGD(groups, section.lr, momentum=section.momentum, weight_decay=section.weight_decay)
    assert section.epochs is not None, "main sets it"
    schedule = PolynomialLR(optimizer, len(loader) * section.epochs, section.power)
    for _ in range(section.epochs):
        for images, labels in loader:
            images = images.to(device, memory_format=runtime.memory_format, non_blocking=pinned)
            labels = labels.to(device, non_blocking=pinned)
            optimizer.zero_grad()
            with torch.autocast(device.type, dtype=runtime.dtype, enabled=runtime.dtype is not None):
                loss = F.cross_entropy(network(images), labels, ignore_index=255)
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--size", default="160x80")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--backbone", default="resnet_small")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--workers", type=int, default=0, help="loading processes, of all three")
    parser.add_argument(
        "--prepared-mb", type=int, default=2048, help="disk for prepared images, of ATP and the bare loop"
    )
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    stride = 4 if arguments.backbone == "resnet_small" else 8
    config = NetworkConfig(backbone=arguments.backbone, output_stride=stride, num_classes=CLASSES)
    section = settings(arguments.batch_size)
    training = TrainingSettings(precision=arguments.precision)
    placement = RuntimeSettings(device=arguments.device, workers=arguments.workers, prepared_mb=arguments.prepared_mb)
    with tempfile.TemporaryDirectory() as folder, open_runtime(training, placement) as runtime:
        samples = draw(Path(folder), arguments.steps * arguments.batch_size, (width, height))
        store = Store(Path(folder) / "prepared", runtime.prepared_mb * 2**20)
        images = read(samples, section, store)
        resume = ResumeFile(Path(folder) / "state.pt", "benchmark")

        def atp(network: SegmentationNetwork) -> None:
            train_source(network, images, section, Run("step", 0, runtime, resume))
            resume.delete()

        sides: dict[str, Callable[[SegmentationNetwork], None]] = {
            "ATP": atp,
            "bare loop": lambda network: bare(network, images, section, runtime),
            "plain script": lambda network: plain(network, samples, section, runtime),
        }
        turns = []
        for turn in range(arguments.repeats + 1):
            times = {}
            # Another one goes first in every turn, since later ones may run on a warmer machine.
            for name in rotated(list(sides), turn):
                torch.manual_seed(0)
                network = build_network(config)
                begin = time.perf_counter(), time.process_time()
                sides[name](network)
                if runtime.device.type == "cuda":
                    torch.cuda.synchronize()
                end = time.perf_counter(), time.process_time()
                times[name] = [1000 * (b - a) / arguments.steps for a, b in zip(begin, end, strict=True)]
            if turn:  # the first turn compiles kernels and fills the cache
                turns.append(times)
        print(
            f"{machine()}, {runtime.precision}; {arguments.backbone} {arguments.size}, batch {arguments.batch_size}, "
            f"{arguments.steps} steps, {arguments.workers} workers, {arguments.prepared_mb} MB of prepared images\n"
        )
        print(f"| | ms a step, median of {len(turns)} | ATP / this, median (range) | CPU, ms | ATP / this |")
        print("|---|---|---|---|---|")
        for name in sides:
            cells = [cell for of in (0, 1) for cell in compared([(t["ATP"][of], t[name][of]) for t in turns])]
            print(f"| {name} | {' | '.join(cells)} |")


def compared(pairs: Sequence[tuple[float, float]]) -> tuple[str, str]:
    """Median of the second numbers, and of the ratios of the first to the second with their range."""
    ratios = [first / second for first, second in pairs]
    ratio = f"{median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})"
    return f"{median(second for _, second in pairs):.1f}", "" if set(ratios) == {1.0} else ratio


def settings(batch_size: int) -> SourceSettings:
    return SourceSettings(
        epochs=1, batch_size=batch_size, lr=0.01, augmentation=Augmentation(flip=True, jitter=JITTER, blur=False)
    )


def read(samples: Sequence[Sample], section: SourceSettings, store: Store) -> TrainingImages:
    """ATP's training set of these files."""
    images, labels = ([getattr(sample, kind) for sample in samples] for kind in ("image", "label"))
    known = FolderLabels(CLASSES, None, store.labels(labels, None, CLASSES))
    return TrainingImages(samples, section.augmentation, labels=known, prepared=store.images(images, None))


def rotated(names: list[str], by: int) -> list[str]:
    by %= len(names)
    return names[by:] + names[:by]


def draw(folder: Path, count: int, size: tuple[int, int]) -> list[Sample]:
    """Write images of noisy patches, about as compressible as photographs, and their labels."""
    generator = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for index in range(count):
        coarse = generator.integers(0, 240, (size[1] // 8 + 1, size[0] // 8 + 1, 3)).repeat(8, 0).repeat(8, 1)
        pixels = coarse[: size[1], : size[0]] + generator.integers(0, 8, (size[1], size[0], 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"images/{index:04}.png")
        labels = coarse[: size[1], : size[0], 0] * CLASSES // 240
        Image.fromarray(labels.astype(np.uint8)).save(folder / f"labels/{index:04}.png")
    return list_samples(folder / "images", folder / "labels")


if __name__ == "__main__":
    main()
