"""Overhead of the training loop over the same steps in plain PyTorch.

    python benchmarks/step.py [--steps 30] [--repeats 9] [--size 160x80] [--backbone resnet_small] [--device auto]

Both loops train the same network on the same images with the same loader, alternately; the result is the median ratio.
Ours does more: it seeds every step, logs metrics, shows progress and can save its state.
"""

import argparse
import platform
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from PIL import Image

from atp.data.folder import Sample, list_samples
from atp.data.loading import ImageCache, Labels, TrainingImages, TrainingOrder, training_loader
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


def bare(network: SegmentationNetwork, images: TrainingImages, section: Optimisation, runtime: Runtime) -> None:
    """The bare steps of ``train_source``."""
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
    if runtime.device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--size", default="160x80")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--backbone", default="resnet_small")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    stride = 4 if arguments.backbone == "resnet_small" else 8
    config = NetworkConfig(backbone=arguments.backbone, output_stride=stride, num_classes=CLASSES)
    section = SourceSettings(
        epochs=1, batch_size=arguments.batch_size, lr=0.01, augmentation=Augmentation(flip=True, jitter=0.15)
    )
    training = TrainingSettings(precision=arguments.precision)
    with (
        tempfile.TemporaryDirectory() as folder,
        open_runtime(training, RuntimeSettings(device=arguments.device)) as runtime,
    ):
        samples = draw(Path(folder), arguments.steps * arguments.batch_size, (width, height))
        ids = torch.randint(0, CLASSES, (height, width), dtype=torch.uint8)
        images = TrainingImages(
            samples, section.augmentation, labels=lambda sample: Labels(ids), cache=ImageCache(runtime.cache_mb)
        )
        resume = ResumeFile(Path(folder) / "state.pt", "benchmark")

        def ours(network: SegmentationNetwork) -> None:
            train_source(network, images, section, Run("step", 0, runtime, resume))
            resume.delete()

        ratios, seconds = [], []
        for turn in range(arguments.repeats + 1):
            times = {}
            # Alternate which loop goes first, since the second runs on a warmer machine.
            for name in ("ours", "bare") if turn % 2 else ("bare", "ours"):
                torch.manual_seed(0)
                network = build_network(config)
                begin = time.perf_counter()
                if name == "ours":
                    ours(network)
                else:
                    bare(network, images, section, runtime)
                times[name] = (time.perf_counter() - begin) / arguments.steps
            if turn:  # the first turn compiles kernels and fills the cache
                ratios.append(times["ours"] / times["bare"])
                seconds.append(times["bare"])
        device = torch.cuda.get_device_name() if runtime.device.type == "cuda" else platform.processor() or "CPU"
        print(f"{device}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}, {runtime.precision}")
        print(
            f"{arguments.backbone} {arguments.size}, batch {arguments.batch_size}: "
            f"{1000 * median(seconds):.1f} ms a bare step"
        )
        print(f"ours / bare: {median(ratios):.3f} (turns {min(ratios):.3f} to {max(ratios):.3f})")


def draw(folder: Path, count: int, size: tuple[int, int]) -> list[Sample]:
    """Write images of noise."""
    for index in range(count):
        array = torch.randint(0, 255, (size[1], size[0], 3), dtype=torch.uint8).numpy()
        Image.fromarray(array).save(folder / f"{index:04}.png", compress_level=0)
    return list_samples(folder)


if __name__ == "__main__":
    main()
