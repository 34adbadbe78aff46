"""Time and memory of ``atp predict`` on large images, beside the bare network's forward pass in the same run.

    python benchmarks/predict.py --images 1000 --read 1024x512

Images of 2048x1024 are drawn: ten different ones, each under many names. The network has random weights, which changes
neither time nor memory. A ratio is the time of the bare forward passes over that of ``atp predict``, which also reads
and resizes the images, resizes the probabilities, and writes masks and overlays. Where other programs run, the ratio of
the images a second says little about a free machine; that of the CPU's seconds does not depend on them.
"""

import argparse
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from machine import machine
from PIL import Image

from atp import load_model
from atp.data.labels import LabelSpace
from atp.data.reading import Reading
from atp.masks import Wanted, write_predictions
from atp.models.checkpoint import save_checkpoint
from atp.models.network import NetworkConfig, build_network
from atp.training.prediction import predictor_of
from atp.training.runtime import find_device

CLASSES, DIFFERENT = 12, 10
PART = 100
"""Number of images whose peak memory is measured at the beginning and at the end."""
FORWARDS = 5


def draw(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Write smooth colours with some noise, as PNG about as large as those of a camera."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(count):
        path = folder / f"{index:05}.png"
        if index >= DIFFERENT:
            os.link(folder / f"{index % DIFFERENT:05}.png", path)
            continue
        coarse = Image.fromarray(generator.integers(0, 255, (16, 32, 3), dtype=np.uint8))
        smooth = np.array(coarse.resize(size, Image.Resampling.BICUBIC)).astype(int)
        noisy = smooth + generator.integers(-6, 7, smooth.shape)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)


class Memory:
    """Resident memory of this process, sampled in a thread."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, int]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        process = psutil.Process()
        while not self._ended.wait(0.02):
            self.samples.append((time.time(), process.memory_info().rss))

    def peak(self, start: float, end: float) -> float:
        """Highest MiB between two times."""
        return max(rss for at, rss in self.samples if start <= at <= end) / 2**20


def forwards(model: Path, read: tuple[int, int], batch: int, device: str) -> tuple[float, float]:
    """Median seconds an image of the bare network, as ``atp predict`` calls it, and of its CPU."""
    predictor = predictor_of(load_model(model), find_device(device), None)
    ((network, _),) = predictor.networks
    images = torch.randint(0, 256, (batch, 3, read[1], read[0]), dtype=torch.uint8)
    seconds, busy = [], []
    for _ in range(FORWARDS + 1):
        began, cpu = time.perf_counter(), time.process_time()
        with torch.no_grad(), predictor.runtime.autocast():
            network(images.to(predictor.runtime.device, memory_format=predictor.runtime.memory_format))
        if predictor.runtime.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append((time.perf_counter() - began) / batch)
        busy.append((time.process_time() - cpu) / batch)
    return statistics.median(seconds[1:]), statistics.median(busy[1:])


def parse_size(text: str) -> tuple[int, int]:
    width, height = map(int, text.split("x"))
    return width, height


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2 * PART)
    parser.add_argument("--size", type=parse_size, default=(2048, 1024), help="of the images, WIDTHxHEIGHT")
    parser.add_argument("--read", type=parse_size, default=(1024, 512), help="size at which the network reads them")
    parser.add_argument("--backbone", choices=("resnet_small", "resnet18", "resnet50"), default="resnet_small")
    parser.add_argument("--output-stride", type=int, choices=(4, 8, 16), default=8)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--no-overlay", action="store_true")
    arguments = parser.parse_args()
    space = LabelSpace.named([f"class {index}" for index in range(CLASSES)])
    config = NetworkConfig(
        backbone=arguments.backbone, output_stride=arguments.output_stride, num_classes=space.num_classes
    )
    torch.manual_seed(0)
    network = build_network(config)
    network.reading = Reading(arguments.read)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "model.safetensors"
        save_checkpoint(model, network, config, space, {"precision": "fp32"})
        draw(folder / "images", arguments.images, arguments.size)
        turns = [forwards(model, arguments.read, arguments.batch, arguments.device)]
        cpu = time.process_time()
        with Memory() as memory:
            write_predictions(
                folder / "images",
                folder / "out",
                str(model),
                wanted=Wanted(overlays=not arguments.no_overlay),
                batch=arguments.batch,
                workers=arguments.workers,
                device=arguments.device,
            )
        cpu = (time.process_time() - cpu) / arguments.images
        turns.append(forwards(model, arguments.read, arguments.batch, arguments.device))
        done = sorted(path.stat().st_mtime for path in (folder / "out/masks").iterdir())
    # Without the first batch and what comes before it, such as loading the model.
    own = (done[-1] - done[0]) / (len(done) - 1)
    bare, bare_cpu = (statistics.mean(values) for values in zip(*turns, strict=True))
    part = min(PART, len(done) // 2)
    print(f"{machine()}; {os.cpu_count()} cores, {arguments.workers} workers, batch {arguments.batch}")
    print(f"{arguments.backbone} at {arguments.read}, {len(done)} images of {arguments.size}, {CLASSES} classes")
    print(f"bare network {1 / bare:.2f} images/s, atp predict {1 / own:.2f} images/s, ratio {bare / own:.2f}")
    print(f"CPU seconds an image: bare network {bare_cpu:.2f}, atp predict {cpu:.2f}, ratio {bare_cpu / cpu:.2f}")
    first, last = memory.peak(done[0], done[part]), memory.peak(done[-part], done[-1])
    print(f"peak memory: first {part} images {first:.0f} MiB, last {part} images {last:.0f} MiB")


if __name__ == "__main__":
    main()
