"""The store of a black box's answers: size, speed, and the loss of a student trained on it.

    python benchmarks/answers.py [--images 100]      sizes and times, a few minutes on one thread
    python benchmarks/answers.py --forms             other forms of the same answers
    python benchmarks/answers.py --students --checkpoint runs/source [--seeds 0 1 2] [--epochs 10]
                                                     students trained on float32 and on stored answers

Sizes are measured on synthetic predictions at 1024x512 with 19 classes that imitate a trained network (see
``benchmarks/dump.py``). With ``--checkpoint runs/source``, also on those of the streets source model (12 classes) on
its target images, enlarged to 1024x512.

The students are trained on streets' target images with that model's answers, with the settings of ``distill`` in
black_box/params.yaml, the same initial weights and the same order. They differ only in the answers: all probabilities
in float32, the store's, or only ids.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
import zstandard
from dump import CLASSES, forward, print_table, scene
from machine import machine
from torch import Tensor

from atp.black_box.answers import LEAST, Answer
from atp.data.folder import Sample, list_samples
from atp.data.labels import LabelSpace
from atp.data.loading import Labels, TrainingImages
from atp.data.tensors import read_image
from atp.evaluation.evaluate import evaluate
from atp.method.distill import distill
from atp.models.checkpoint import network_from_checkpoint
from atp.models.network import SegmentationNetwork, build_network
from atp.params import load_params, needed
from atp.training.prediction import Predictor
from atp.training.run import Run
from atp.training.runtime import Runtime, open_runtime

SIZE = (1024, 512)
KEEP = 4
STREETS = Path("assets/streets")


def synthetic(images: int) -> Iterator[Tensor]:
    """Probabilities, (19, 512, 1024), one scene after the other."""
    for index in range(images):
        yield forward(scene(index, SIZE))


def real(images: int, checkpoint: Path) -> Iterator[Tensor]:
    """A network's probabilities on streets' target images, enlarged to that size."""
    network, _ = network_from_checkpoint(checkpoint / "model.safetensors")
    network.eval()
    for sample in list_samples(STREETS / "target/images")[:images]:
        with torch.inference_mode():
            yield network(read_image(sample.image, SIZE)[None]).float().softmax(1)[0]


def lost(probabilities: Tensor, answer: Answer) -> float:
    """KL divergence of the stored from the original answer, nats per pixel."""
    stored = answer.dense(len(probabilities)).clamp(min=1e-7)
    return float((torch.xlogy(probabilities, probabilities) - probabilities * stored.log()).sum(0).mean())


def write(path: Path, answer: Answer) -> None:
    path.write_bytes(answer.to_bytes())


def timed(function: Callable[[], object]) -> float:
    """CPU time of a call, ms."""
    start = time.process_time()
    function()
    return 1e3 * (time.process_time() - start)


def sizes(name: str, predictions: Iterator[Tensor]) -> None:
    torch.set_num_threads(1)
    rows: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.answer"
        for probabilities in predictions:
            answers = {f"soft, {keep} classes": Answer.of(probabilities, keep) for keep in (KEEP, 3)}
            answers["ids alone"] = Answer.hard(probabilities.argmax(0).byte())
            for kind, answer in answers.items():
                row = rows.setdefault(kind, {"kB": [], "encode": [], "decode": [], "lost": []})
                row["encode"].append(timed(partial(write, path, answer)))
                row["decode"].append(timed(partial(Answer.read, path)))
                row["kB"].append(path.stat().st_size / 1e3)
                row["lost"].append(lost(probabilities, Answer.read(path)))
    count = len(next(iter(rows.values()))["kB"])
    print(f"\n**{name}**, {count} images, {SIZE[0]}x{SIZE[1]}\n")
    print_table(
        ["kept of each pixel", "kB an image", "largest", "encode, ms", "decode, ms", "KL, nats a pixel"],
        [
            [
                kind,
                f"{mean(row['kB']):.0f}",
                f"{max(row['kB']):.0f}",
                f"{statistics.median(row['encode']):.0f}",
                f"{statistics.median(row['decode']):.0f}",
                "" if kind == "ids alone" else f"{mean(row['lost']):.4f}",
            ]
            for kind, row in rows.items()
        ],
    )


def forms(images: int) -> None:
    """Compare storage formats: bytes of codes and of classes by filter, minimum probability and level."""
    torch.set_num_threads(1)
    scenes = [Answer.of(probabilities, KEEP) for probabilities in synthetic(images)]
    zero = np.uint8(0)
    filters: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "none": lambda codes: codes,
        "left": partial(np.diff, axis=2, prepend=zero),
        "up": partial(np.diff, axis=1, prepend=zero),
        "left + up - upper left": lambda codes: np.diff(np.diff(codes, axis=2, prepend=zero), axis=1, prepend=zero),
    }
    rows = []
    for least in (0.0, LEAST, 3 * LEAST):
        for scale, power in (("root", 0.5), ("linear", 1.0)):
            planes = [coded(answer, least, power) for answer in scenes]
            for name, function in filters.items():
                for level in (1, 9):
                    squeeze = zstandard.ZstdCompressor(level=level).compress
                    start = time.process_time()
                    codes = mean(len(squeeze(function(part[1]).tobytes())) for part in planes) / 1e3
                    took = 1e3 * (time.process_time() - start) / len(planes)
                    classes = mean(len(squeeze(part[0].tobytes())) for part in planes) / 1e3
                    ours = (least, scale, name, level) == (LEAST, "root", "left + up - upper left", 1)
                    cells = [f"{least:g}", scale, name, str(level), f"{codes:.0f}", f"{classes:.0f}"]
                    cells += [f"{codes + classes:.0f}", f"{took:.0f}"]
                    rows.append([f"**{cell}**" if ours else cell for cell in cells])
    print(f"\n**Forms**, {KEEP} classes a pixel, mean of {images} synthetic images, kB\n")
    print_table(["least kept", "scale", "filter", "zstd", "codes", "classes", "together", "codes, ms"], rows)


def coded(answer: Answer, least: float, power: float) -> tuple[np.ndarray, np.ndarray]:
    """Classes and unfiltered codes as ``Answer.to_bytes`` makes them with these settings."""
    kept = answer.probabilities.numpy().copy()
    kept[1:][kept[1:] < least] = 0
    ranks = np.arange(2, KEEP + 1)[:, None, None]
    shares = np.concatenate([kept[1:] * ranks, np.clip(1 - kept.sum(0), 0, 1)[None]])
    codes = np.rint(255 * np.clip(shares, 0, 1) ** power).astype(np.uint8)
    classes = answer.classes.numpy().copy()
    classes[1:][codes[:-1] == 0] = 255
    return classes, codes


@dataclass(frozen=True)
class Given:
    """Answers in memory, for a data set; a class, so that it can be sent to workers."""

    answers: Mapping[str, Answer]
    soft: bool = True

    def __call__(self, sample: Sample) -> Labels:
        answer = self.answers[sample.name]
        if not self.soft:
            return Labels(answer.classes[0])
        return Labels(answer.classes[0], classes=answer.classes, probabilities=answer.probabilities)


def asked(source: SegmentationNetwork, samples: list[Sample], space: LabelSpace, runtime: Runtime) -> dict[str, Given]:
    """The source model's answers in each form, by the student's name."""
    predictor, size = Predictor([(source, 1.0)], runtime), load_params().data.size
    exact, stored = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.answer"
        for sample in samples:
            probabilities = predictor.probabilities(read_image(sample.image, size)[None])[0].cpu()
            exact[sample.name] = Answer.of(probabilities, space.num_classes)
            path.write_bytes(Answer.of(probabilities, KEEP).to_bytes())
            stored[sample.name] = Answer.read(path)
    return {"all probabilities in float32": Given(exact), "the store": Given(stored), "ids alone": Given(stored, False)}


def students(seeds: list[int], epochs: int, checkpoint: Path) -> None:
    params = load_params()
    section = needed(load_params(Path("black_box/params.yaml")).distill, "distill")
    section = section.model_copy(update={"epochs": epochs})
    source, space = network_from_checkpoint(checkpoint / "model.safetensors")
    target = list_samples(STREETS / "target/images")
    test = list_samples(STREETS / "test/images", STREETS / "test/labels")
    rows: dict[str, list[float]] = {}
    with open_runtime(params.training, params.runtime) as runtime:
        for kind, given in asked(source.to(runtime.device), target, space, runtime).items():
            own = section if given.soft else section.model_copy(update={"answers": "hard"})
            for seed in seeds:
                torch.manual_seed(seed)
                network = build_network(params.model.model_copy(update={"num_classes": space.num_classes}))
                images = TrainingImages(target, own.augmentation, size=params.data.size, labels=given)
                distill(network, images, own, Run("distill", seed, runtime))
                result = evaluate(network, test, params.data.size, runtime)
                rows.setdefault(kind, []).append(100 * result.confusion.mean_iou())
    print(f"\n**Students on streets**, {epochs} epochs, {len(seeds)} seeds\n")
    reference, *_ = rows.values()
    table = []
    for kind, values in rows.items():
        lost = [exact - value for exact, value in zip(reference, values, strict=True)]
        apart = f"{mean(lost):+.2f}" + (f" ± {stdev(lost):.2f}" if len(lost) > 1 else "")
        each = " ".join(f"{value:.1f}" for value in values)
        table.append([kind, f"{mean(values):.2f}", "" if values is reference else apart, each])
    print_table(["learned from", "mIoU", "points lost against float32", "seeds"], table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--checkpoint", type=Path, help="folder of the streets' source model")
    parser.add_argument("--forms", action="store_true")
    parser.add_argument("--students", action="store_true")
    parser.add_argument("--epochs", type=int, default=10, help="of the students")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    print(machine())
    if arguments.students:
        if arguments.checkpoint is None:
            parser.error("--students: needs a source model; pass --checkpoint runs/source")
        students(arguments.seeds, arguments.epochs, arguments.checkpoint)
    elif arguments.forms:
        forms(min(arguments.images, 10))
    else:
        sizes(f"Synthetic, {CLASSES} classes", synthetic(arguments.images))
        if arguments.checkpoint:
            sizes("Streets' source model", real(min(arguments.images, 16), arguments.checkpoint))


if __name__ == "__main__":
    main()
