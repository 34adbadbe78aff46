"""What keeps a device waiting: passes and the training loader beside an imitated one.

    python benchmarks/throughput.py [--images 32] [--size 2048x1024] [--read 1024x512] [--workers 2]

Drawn images of a size are read at another, with 19 classes. In the device's place, a forward pass and a training step
sleep, which takes no core, so that what goes on beside them shows without a GPU. The CPU time is that of the whole
process; none of it is the network's.

* dump: its wall time over that of the forward passes alone, and its CPU time, for images that are decoded at every use,
  that are prepared meanwhile, and that are prepared already.
* training loader: the CPU time of an image of teach, with labels, negatives, jitter and blur, in the process itself;
  and the share of a step that waits for the loader's processes.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from machine import machine
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from atp.data.folder import Sample, list_samples
from atp.data.labels import LabelSpace
from atp.data.loading import Images, TrainingOrder, training_loader
from atp.data.prepared import Store
from atp.data.reading import Size
from atp.data.settings import Augmentation
from atp.method.dump import dump
from atp.method.settings import DumpSettings
from atp.pseudo_labels.store import PseudoLabelStore, StoredLabels
from atp.training.prediction import CHUNK
from atp.training.runtime import Runtime

CLASSES = 19
SPACE = LabelSpace.numbered(CLASSES)
GIGABYTES = 64 * 2**30
RECIPES = {
    "flip, jitter and blur": Augmentation(flip=True, jitter=0.3, blur=True),
    "flip alone": Augmentation(flip=True),
}


@dataclass
class Sleeping:
    """In the place of ``Predictor``: sleeps for every image, and returns the same predictions again and again."""

    predictions: Tensor
    forward_s: float
    slept: float = 0.0
    chunk: int = CHUNK

    def probabilities(self, images: Tensor) -> Tensor:
        begin = time.perf_counter()
        time.sleep(self.forward_s * len(images))
        self.slept += time.perf_counter() - begin
        return self.predictions[: len(images)]


@dataclass
class Clock:
    """Wall and CPU time of a block, in seconds."""

    wall: float = field(default=0.0, init=False)
    cpu: float = field(default=0.0, init=False)

    @contextmanager
    def running(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall, self.cpu = time.perf_counter() - wall, time.process_time() - cpu


def dump_once(images: Images, device: Sleeping, runtime: Runtime, folder: Path) -> Clock:
    """Dump the labels of all images into a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    clock, device.slept = Clock(), 0.0
    with patch("atp.method.dump.Predictor", lambda *given, **named: device), clock.running():
        dump([], images, DumpSettings(), SPACE, runtime, pending=folder / "pending", folder=folder / "labels")
    return clock


def loader_cpu(images: Images, recipe: Augmentation, labels: StoredLabels) -> float:
    """CPU seconds of an image in the second epoch, loaded in this process."""
    training = images.augmented(recipe, labels)
    loader = training_loader(training, order(training), workers=0, pin_memory=False)
    clock = Clock()
    list(islice(loader, len(training)))
    with clock.running():
        assert len(list(loader)) == len(training)
    return clock.cpu / len(training)


def waiting(images: Images, recipe: Augmentation, labels: StoredLabels, workers: int, step_s: float) -> float:
    """Share of a step in which the device waits for its batch of one image, in the second epoch."""
    training = images.augmented(recipe, labels)
    loader = training_loader(training, order(training), workers=workers, pin_memory=False)
    for _ in islice(loader, len(training)):
        time.sleep(step_s)
    waited = 0.0
    for _ in range(len(training)):
        begin = time.perf_counter()
        next(loader)
        waited += time.perf_counter() - begin
        time.sleep(step_s)
    return waited / (waited + step_s * len(training))


def order(images: Any) -> TrainingOrder:
    return TrainingOrder(len(images), 1, 2, seed=0)


def draw(folder: Path, count: int, size: Size) -> list[Sample]:
    """Write images about as compressible as photographs."""
    generator = np.random.default_rng(0)
    width, height = size
    folder.mkdir()
    for index in range(count):
        coarse = generator.integers(0, 255, (height // 32 + 1, width // 32 + 1, 3), dtype=np.uint8)
        smooth = np.array(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = smooth + generator.normal(0, 4, (height, width, 1)).astype(np.int16)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{index:04}.png", compress_level=6)
    return list_samples(folder)


def predict(size: Size) -> Tensor:
    """Predictions of a chunk, (N, C, H, W), smooth, with most confidences near 1."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(CHUNK, CLASSES, size[1] // 8, size[0] // 8, generator=generator)
    smooth = F.avg_pool2d(coarse, 9, 1, 4) * 60
    return F.interpolate(smooth, size[::-1], mode="bilinear").softmax(1)


def parsed(text: str) -> Size:
    width, height = map(int, text.split("x"))
    return width, height


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--size", type=parsed, default=(2048, 1024))
    parser.add_argument("--read", type=parsed, default=(1024, 512))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--forward-ms", type=float, default=80, help="of an image")
    parser.add_argument("--step-ms", type=float, default=60, help="of a batch of one image")
    given = parser.parse_args()
    torch.set_num_threads(1)
    runtime = Runtime(torch.device("cpu"), workers=given.workers)
    device = Sleeping(predict(given.read), given.forward_ms / 1000)
    print(f"{machine()}; {os.cpu_count()} cores, {given.workers} workers")
    print("{} images of {}x{} read at {}x{}, {} classes\n".format(given.images, *given.size, *given.read, CLASSES))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        samples = draw(folder / "images", given.images, given.size)
        files = [sample.image for sample in samples]
        store = Store(folder / "prepared", GIGABYTES)
        decoded = Images(samples, given.read)
        prepared = Images(samples, given.read, prepared=store.images(files, given.read))
        print("| dump | wall / forward alone | CPU, ms an image |\n|---|---|---|")
        for what, images in {
            "decoded": decoded,
            "prepared meanwhile": prepared,
            "prepared already": prepared,
        }.items():
            clock = dump_once(images, device, runtime, folder / "dump")
            print(f"| {what} | {clock.wall / device.slept:.2f} | {1000 * clock.cpu / len(samples):.1f} |", flush=True)
        labels = StoredLabels(PseudoLabelStore(folder / "dump/labels"), negatives=True)
        print(f"\n| training loader | CPU, ms an image | waiting, of a step of {given.step_ms:.0f} ms |\n|---|---|---|")
        for what, images in {"decoded": decoded, "prepared": prepared}.items():
            for recipe, augmentation in RECIPES.items():
                cpu = loader_cpu(images, augmentation, labels)
                share = waiting(images, augmentation, labels, given.workers, given.step_ms / 1000)
                print(f"| {what}, {recipe} | {1000 * cpu:.1f} | {100 * share:.0f} % |", flush=True)


if __name__ == "__main__":
    main()
