"""Pseudo labels on disk: ATP's writer against plain arrays and against published code, on the same predictions.

    python benchmarks/dump.py                  the comparison, a quarter of an hour
    python benchmarks/dump.py --containers     size and speed of formats for negative labels and for masks
    python benchmarks/dump.py --codes          resolution of the confidence codes: pixels kept beyond K, and size

``arrays`` is the baseline, what one would write without this project: the class of each pixel in uint8 and its
confidence in float32 (or float16), of all images, in lists of arrays; thresholds by ``np.partition`` over each class;
masks as PNGs. It writes positive labels only. ``arrays, all`` also writes what ATP writes, negative labels
(``np.packbits`` in ``np.savez_compressed``) and the images' entropies. Neither can resume, nor share the work between
processes.

``CRST`` is published self-training code (CRST's crst_seg.py and its descendants). It transposes a prediction to
H x W x C, saves it as float32 with ``np.save``, appends every fourth confidence to a Python list per class, sorts the
lists for the class thresholds, and makes a second pass over all images to load the predictions and write masks. Omitted
here, in its favour: the coloured pictures, the second mask, and dividing by the thresholds. ``CRST, C x H x W`` is the
same code without the transposition, which is much faster in numpy, and keeps its Python lists. Neither writes negative
labels or entropies.

ATP always writes negative labels and entropies, and its time includes them.

The predictions are synthetic and imitate a trained network: scenes of smooth regions and small objects at an eighth of
the size, noisy logits, upsampled bilinearly, and confident (more than three quarters of the pixels above .9). The
forward pass is this upsampling and the softmax; its time is measured but not counted. Files stay in the page cache,
which favours methods that write more. Each measurement runs in a child process on one thread after a warm-up. The
methods take turns, and ratios are those of one turn, since other load on the machine affects times; it affects CPU time
less than wall time.
"""

import argparse
import io
import json
import lzma
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import zstandard
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from atp.data.arrays import arrays_to_bytes
from atp.data.labels import IGNORE, LabelSpace
from atp.pseudo_labels import thresholds
from atp.pseudo_labels.bitmaps import pack
from atp.pseudo_labels.negatives import negative_labels
from atp.pseudo_labels.store import PseudoLabelStore, PseudoLabelWriter

CLASSES, KEEP_RATIO, NEGATIVE_THRESHOLD = 19, 0.65, 0.05
STRIDE = 4
"""Published code keeps every fourth confidence."""


def scene(seed: int, size: tuple[int, int]) -> Tensor:
    """Logits of one drawn scene at an eighth of ``size`` = (width, height), (1, C, h, w).

    ``sharpness`` and noise were chosen by their outcome: mean confidence .91 to .93, 76 to 81 % of the pixels above .9.
    """
    width, height = size[0] // 8, size[1] // 8
    generator = torch.Generator().manual_seed(seed)

    def smooth(channels: int, step: int) -> Tensor:
        coarse = torch.randn(1, channels, max(2, height // step), max(2, width // step), generator=generator)
        return F.interpolate(coarse, (height, width), mode="bicubic")

    # Regions: each class is more likely at some height of the image, like road and sky.
    tendency = torch.linspace(-1.5, 1.5, height)[:, None] * torch.randn(1, CLASSES, 1, 1, generator=generator)
    labels = (smooth(CLASSES, 16) + 0.5 * smooth(CLASSES, 5) + tendency).argmax(1)[0]
    # Small objects.
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    for _ in range(25):
        at_y, at_x, extent_y, extent_x, label = torch.rand(5, generator=generator).tolist()
        distance = ((y - at_y * height) / (1 + 5 * extent_y)) ** 2 + ((x - at_x * width) / (1 + 5 * extent_x)) ** 2
        labels[distance < 1] = int(label * CLASSES)
    shown = F.one_hot(labels, CLASSES).permute(2, 0, 1)[None].float()
    shown = F.avg_pool2d(shown, 3, stride=1, padding=1, count_include_pad=False)
    # Some parts of the image are harder than others; neighbouring logits differ slightly.
    sharpness = 14 * (0.35 + 0.9 * torch.sigmoid(smooth(1, 8)))
    noise = smooth(CLASSES, 4) + 0.8 * torch.randn(1, CLASSES, height, width, generator=generator)
    return sharpness * shown + noise


def forward(logits: Tensor) -> Tensor:
    """A network's last layers: logits to probabilities at eight times the size, (C, H, W)."""
    return F.interpolate(logits, scale_factor=8, mode="bilinear").softmax(1)[0]


class Watch:
    """Adds up wall and processor time, seconds."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.wall += time.perf_counter() - self._start[0]
        self.cpu += time.process_time() - self._start[1]


def label_space() -> LabelSpace:
    return LabelSpace(
        tuple(f"class{c}" for c in range(CLASSES)), tuple((13 * c, 255 - 13 * c, 90) for c in range(CLASSES))
    )


def dump_atp(folder: Path, images: int, size: tuple[int, int]) -> dict[str, float]:
    watch, forwards = Watch(), Watch()
    writer = PseudoLabelWriter(
        folder / "pending", CLASSES, negative_threshold=NEGATIVE_THRESHOLD, keep_ratio=KEEP_RATIO
    )
    names = [f"{index:05d}" for index in range(images)]
    for index, name in enumerate(names):
        logits = scene(index, size)
        with forwards:
            probabilities = forward(logits)
        with watch:
            writer.add(name, probabilities)
    pending = folder_bytes(folder)
    with watch:
        table = writer.finish(folder / "labels", label_space(), names, {})
    final = folder_bytes(folder)
    store = PseudoLabelStore(folder / "labels")
    decode = [timed(lambda name: (store.positive(name), store.negatives(name)), name) for name in names]
    return times(watch, forwards, images) | {
        "final": final / images,
        "peak": (pending + final) / images,
        "positives": folder_bytes(folder / "labels" / "positives") / images,
        "negatives": folder_bytes(folder / "labels" / "negatives") / images,
        "decode": statistics.median(decode),
        "excess": max(row["coverage"] for row in table["classes"]) - KEEP_RATIO,
    }


def dump_crst(folder: Path, images: int, size: tuple[int, int], axis: int = 2) -> dict[str, float]:
    """CRST's way; ``axis`` is the class axis of its arrays, 2 as published or 0."""
    watch, forwards = Watch(), Watch()
    confidences: list[list[np.float32]] = [[] for _ in range(CLASSES)]
    for index in range(images):
        logits = scene(index, size)
        with forwards:
            probabilities = forward(logits)
        with watch:
            array = np.moveaxis(probabilities.numpy(), 0, axis)
            labels, best = array.argmax(axis).astype(np.uint8), array.max(axis)
            np.save(folder / f"{index:05d}.npy", array)
            for c in range(CLASSES):
                confidences[c].extend(best[labels == c][::STRIDE])
    least = np.ones(CLASSES, np.float32)
    with watch:
        for c, values in enumerate(confidences):
            values.sort(reverse=True)
            if selected := int(len(values) * KEEP_RATIO):
                least[c] = values[selected - 1]
        for index in range(images):
            array = np.load(folder / f"{index:05d}.npy")
            labels, best = array.argmax(axis).astype(np.uint8), array.max(axis)
            labels[best < least[labels]] = IGNORE
            Image.fromarray(labels).save(folder / f"{index:05d}.png")
    final = folder_bytes(folder)
    return times(watch, forwards, images) | {"final": final / images, "peak": final / images}


def dump_arrays(
    folder: Path,
    images: int,
    size: tuple[int, int],
    confidence: type[np.floating[Any]] = np.float32,
    all_: bool = False,
) -> dict[str, float]:
    """The plain way, with confidences of this type; with ``all_``, negative labels and entropies as well."""
    watch, forwards = Watch(), Watch()
    classes: list[NDArray[np.uint8]] = []
    confidences: list[NDArray[np.floating[Any]]] = []
    entropies: dict[str, float] = {}
    for index in range(images):
        logits = scene(index, size)
        with forwards:
            probabilities = forward(logits)
        with watch:
            best, labels = probabilities.max(0)
            classes.append(labels.numpy().astype(np.uint8))
            confidences.append(best.numpy().astype(confidence))
            if all_:
                absent = probabilities < min(NEGATIVE_THRESHOLD, 1 / CLASSES)
                absent.scatter_(0, labels[None], False)
                bits = np.packbits(absent.numpy(), axis=-1, bitorder="little")
                np.savez_compressed(folder / f"{index:05d}.npz", bits)
                nats = torch.special.entr(probabilities).sum(0).mean()
                entropies[f"{index:05d}"] = float(nats) / math.log(CLASSES)
    with watch:
        least = np.ones(CLASSES, confidence)
        kept = np.zeros(CLASSES)
        for c in range(CLASSES):
            values = np.concatenate([b[mask == c] for mask, b in zip(classes, confidences, strict=True)])
            if selected := math.ceil(len(values) * KEEP_RATIO):
                least[c] = np.partition(values, -selected)[-selected]
                kept[c] = (values >= least[c]).mean()
        for index, (mask, b) in enumerate(zip(classes, confidences, strict=True)):
            mask[b < least[mask]] = IGNORE
            Image.fromarray(mask).save(folder / f"{index:05d}.png")
        if all_:
            (folder / "entropies.json").write_text(json.dumps(entropies))
    final = folder_bytes(folder)
    return times(watch, forwards, images) | {
        "final": final / images,
        "peak": final / images,
        "excess": float(kept.max()) - KEEP_RATIO,
    }


def times(watch: Watch, forwards: Watch, images: int) -> dict[str, float]:
    """Seconds for each image."""
    return {
        "outside": watch.wall / images,
        "outside_cpu": watch.cpu / images,
        "forward": forwards.wall / images,
    }


METHODS: dict[str, Callable[[Path, int, tuple[int, int]], dict[str, float]]] = {
    "arrays": dump_arrays,
    "arrays, float16": partial(dump_arrays, confidence=np.float16),
    "CRST": dump_crst,
    "CRST, C x H x W": partial(dump_crst, axis=0),
    "arrays, all": partial(dump_arrays, all_=True),
    "ATP": dump_atp,
}
BASELINES = ("arrays", "arrays, all")
WRITES = dict.fromkeys(("arrays, all", "ATP"), "positive and negative labels, entropies")
"""What a method writes, if more than positive labels."""


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def timed(function: Callable[[Any], object], argument: object) -> float:
    """CPU time of one call, seconds, as on an otherwise idle core."""
    start = time.process_time()
    function(argument)
    return time.process_time() - start


def peak_memory() -> float:
    """Peak memory of this process, MB; unlike ``getrusage`` it excludes the parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def child(method: str, images: int, size: tuple[int, int], scratch: Path) -> dict[str, float]:
    """Run one method in a separate process and return its measurements, seconds and bytes per image."""
    command = [
        sys.executable,
        __file__,
        "--child",
        method,
        "--images",
        str(images),
        "--sizes",
        "x".join(map(str, size)),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run([*command, "--scratch", str(scratch)], env=environment, check=True, stdout=subprocess.PIPE)
    measured: dict[str, float] = json.loads(result.stdout)
    return measured


def run_child(method: str, images: int, size: tuple[int, int], scratch: Path) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        METHODS[method](Path(folder), 2, size)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = peak_memory()
        measured = METHODS[method](Path(folder), images, size)
    print(json.dumps(measured | {"memory": peak_memory() - before}))


def compare(images: int, size: tuple[int, int], scratch: Path, repeats: int) -> None:
    # Interleaved, so that other load on the machine affects all methods.
    runs = [{method: child(method, images, size, scratch) for method in METHODS} for _ in range(repeats)]
    print(f"\n**{size[0]}x{size[1]}, {CLASSES} classes**, {images} images, median of {repeats} runs (range)\n")
    rows = [row(method, runs) for method in METHODS]
    header = ["", "writes", "ms an image", "CPU, ms", *(f"CPU / {name}" for name in BASELINES)]
    print_table([*header, "kB an image, finished", "at most"], rows)
    middle = {m: {k: statistics.median(run[m][k] for run in runs) for k in runs[0][m]} for m in METHODS}
    atp = middle["ATP"]
    print(
        f"\nATP's masks take {atp['positives'] / 1e3:.1f} kB and its negatives {atp['negatives'] / 1e3:.1f} kB an "
        f"image. Decoding both: {atp['decode'] * 1e3:.1f} ms an image on one core. The stand-in's forward: "
        f"{atp['forward'] * 1e3:.0f} ms.\n\nPoints that the class furthest from K = {KEEP_RATIO} keeps beyond it: "
        + ", ".join(f"{m} {100 * middle[m]['excess']:.2f}" for m in METHODS if "excess" in middle[m])
    )


def row(method: str, runs: Sequence[Mapping[str, Mapping[str, float]]]) -> list[str]:
    """One method's cells of the table."""
    key = "outside_cpu"
    ratios = [spread([run[method][key] / run[base][key] for run in runs]) for base in BASELINES]
    if method not in WRITES:
        ratios[1] = ""  # would compare different work, in this method's favour
    cells = [f"{1e3 * statistics.median(run[method][k] for run in runs):.1f}" for k in ("outside", key)]
    sizes = [f"{statistics.median(run[method][k] for run in runs) / 1e3:.1f}" for k in ("final", "peak")]
    return [method, WRITES.get(method, "positive labels"), *cells, *ratios, *sizes]


def spread(values: Sequence[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def compare_memory(counts: list[int], size: tuple[int, int], scratch: Path) -> None:
    """Print how much each method's memory peaks above that of the process after a warm-up of two images."""
    print(f"\n**Peak memory above that after a warm-up**, MB, {size[0]}x{size[1]}\n")
    rows = [
        [method, *(f"{child(method, count, size, scratch)['memory']:.0f}" for count in counts)]
        for method in METHODS
        if method != "CRST, C x H x W"  # as CRST
    ]
    print_table(["", *(f"{count} images" for count in counts)], rows)


def print_table(header: list[str], rows: list[list[str]]) -> None:
    for row in [header, ["---"] * len(header), *rows]:
        print(f"| {' | '.join(row)} |", flush=True)


Packed = NDArray[np.uint8]


def containers(size: tuple[int, int], images: int) -> None:
    """Size and speed of formats for negative labels; decoding ends at bools, (C, H, W)."""
    torch.set_num_threads(1)
    width, height = size
    bitmaps: list[NDArray[np.bool_]] = []
    for index in range(images):
        bitmaps.append(negative_labels(forward(scene(index, size))[None], NEGATIVE_THRESHOLD)[0].numpy())
    shape = bitmaps[0].shape
    print(f"\n**Containers of negative labels**, {width}x{height}, {CLASSES} classes, mean of {images} images\n")
    rows = []
    for name, encode, decode in container_candidates(shape):
        files = [encode(labels) for labels in bitmaps]
        for file, labels in zip(files, bitmaps, strict=True):
            assert np.array_equal(decode(file), labels), name
        writing = statistics.mean(min(timed(encode, labels) for _ in range(3)) for labels in bitmaps)
        reading = statistics.mean(min(timed(decode, file) for _ in range(3)) for file in files)
        kilobytes = sum(map(len, files)) / len(files) / 1e3
        rows.append([name, f"{kilobytes:.1f}", f"{writing * 1e3:.1f}", f"{reading * 1e3:.1f}"])
    print_table(["container", "kB an image", "encode, ms", "decode, ms"], rows)


Candidate = tuple[str, Callable[[NDArray[np.bool_]], bytes], Callable[[bytes], NDArray[np.bool_]]]


def container_candidates(shape: tuple[int, ...]) -> Iterator[Candidate]:
    classes, height, width = shape
    row = -(-width // 8)

    def planes(labels: NDArray[np.bool_]) -> Packed:
        return pack(torch.from_numpy(labels)).numpy()

    def bools(packed: Packed) -> NDArray[np.bool_]:
        return np.unpackbits(packed, axis=-1, count=width, bitorder="little").view(np.bool_)

    def as_planes(data: bytes) -> Packed:
        return np.frombuffer(data, np.uint8).reshape(classes, height, row)

    def zstd(level: int) -> Callable[[bytes], bytes]:
        return lambda data: zstandard.ZstdCompressor(level=level).compress(data)

    def unzstd(data: bytes) -> bytes:
        return zstandard.ZstdDecompressor().decompress(data)

    compressors: list[tuple[str, Callable[[bytes], bytes], Callable[[bytes], bytes]]] = [
        *((f"zstd {level}", zstd(level), unzstd) for level in (1, 3, 6, 9, 19)),
        ("zlib 1", lambda data: zlib.compress(data, 1), zlib.decompress),
        ("zlib 6", lambda data: zlib.compress(data, 6), zlib.decompress),
        ("xz 6", lambda data: lzma.compress(data, preset=6), lzma.decompress),
    ]

    def by_planes(name: str, squeeze: Callable[[bytes], bytes], expand: Callable[[bytes], bytes]) -> Candidate:
        return name, lambda labels: squeeze(planes(labels).tobytes()), lambda data: bools(as_planes(expand(data)))

    for name, squeeze, expand in compressors:
        yield by_planes(f"planes by class, {name}" + (" (ATP)" if name == "zstd 1" else ""), squeeze, expand)

    def down(labels: NDArray[np.bool_]) -> bytes:
        packed = planes(labels)
        packed[:, 1:] ^= packed[:, :-1].copy()
        return zstd(1)(packed.tobytes())

    yield (
        "planes, each row XOR the one above, zstd 1",
        down,
        lambda data: bools(np.bitwise_xor.accumulate(as_planes(unzstd(data)), axis=1)),
    )

    def across(labels: NDArray[np.bool_]) -> bytes:
        changes = labels.copy()
        changes[:, :, 1:] ^= labels[:, :, :-1]
        return zstd(1)(planes(changes).tobytes())

    yield (
        "planes, each pixel XOR the one to its left, zstd 1",
        across,
        lambda data: np.logical_xor.accumulate(bools(as_planes(unzstd(data))), axis=2),
    )

    def upright(labels: NDArray[np.bool_]) -> bytes:
        return zstd(1)(planes(np.ascontiguousarray(labels.transpose(0, 2, 1))).tobytes())

    def from_upright(data: bytes) -> NDArray[np.bool_]:
        packed = np.frombuffer(unzstd(data), np.uint8).reshape(classes, width, -1)
        bits = np.unpackbits(packed, axis=-1, count=height, bitorder="little").view(np.bool_)
        return np.ascontiguousarray(bits.transpose(0, 2, 1))

    yield "planes by class, packed down columns, zstd 1", upright, from_upright

    def pixels(labels: NDArray[np.bool_]) -> bytes:
        return zstd(1)(np.packbits(labels.transpose(1, 2, 0), axis=-1).tobytes())

    def from_pixels(data: bytes) -> NDArray[np.bool_]:
        packed = np.frombuffer(unzstd(data), np.uint8).reshape(height, width, -1)
        bits = np.unpackbits(packed, axis=-1, count=classes).view(np.bool_)
        return np.ascontiguousarray(bits.transpose(2, 0, 1))

    yield "pixel by pixel, zstd 1", pixels, from_pixels

    def patterns(labels: NDArray[np.bool_]) -> bytes:
        packed = np.packbits(labels.transpose(1, 2, 0), axis=-1).reshape(height * width, -1)
        palette, index = np.unique(packed, axis=0, return_inverse=True)
        buffer = io.BytesIO()
        Image.fromarray(index.reshape(height, width).astype(np.uint16)).save(buffer, "PNG")
        return len(palette).to_bytes(4) + palette.tobytes() + buffer.getvalue()

    def from_patterns(data: bytes) -> NDArray[np.bool_]:
        count, per_pixel = int.from_bytes(data[:4]), -(-classes // 8)
        end = 4 + count * per_pixel
        palette = np.frombuffer(data[4:end], np.uint8).reshape(count, per_pixel)
        bits = np.unpackbits(palette, axis=-1, count=classes).view(np.bool_)
        with Image.open(io.BytesIO(data[end:])) as image:
            index = np.asarray(image)
        return np.ascontiguousarray(bits[index].transpose(2, 0, 1))

    yield "palette of the pixels' patterns, 16-bit PNG of indices", patterns, from_patterns

    def pngs(labels: NDArray[np.bool_]) -> bytes:
        parts = []
        for plane in labels:
            buffer = io.BytesIO()
            Image.fromarray(plane).save(buffer, "PNG")
            parts.append(buffer.tell().to_bytes(4) + buffer.getvalue())
        return b"".join(parts)

    def from_pngs(data: bytes) -> NDArray[np.bool_]:
        stream, found = io.BytesIO(data), []
        while length := stream.read(4):
            with Image.open(io.BytesIO(stream.read(int.from_bytes(length)))) as image:
                found.append(np.asarray(image))
        return np.stack(found)

    yield "a 1-bit PNG for each class", pngs, from_pngs


def wrappers(size: tuple[int, int], images: int) -> None:
    """Size and speed of ways to write the same packed planes, and of PNGs of masks, to and from memory."""

    def saved(packed: Packed) -> bytes:
        return arrays_to_bytes(packed)

    def loaded(data: bytes) -> Packed:
        array: Packed = np.load(io.BytesIO(zstandard.ZstdDecompressor().decompress(data)))
        return array

    def zipped(save: Callable[..., None], packed: Packed) -> bytes:
        buffer = io.BytesIO()
        save(buffer, packed)
        return buffer.getvalue()

    def unzipped(data: bytes) -> Packed:
        array: Packed = np.load(io.BytesIO(data))["arr_0"]
        return array

    def png(pixels: Packed, **how: int) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels.reshape(-1, pixels.shape[-1])).save(buffer, "PNG", **how)
        return buffer.getvalue()

    def mask(ids: Packed, **how: int) -> bytes:
        # Pillow filters the rows of a greyscale image, but not of one with a palette.
        image = Image.fromarray(ids)
        image.putpalette(label_space().palette)
        buffer = io.BytesIO()
        image.save(buffer, "PNG", **how)
        return buffer.getvalue()

    def pixels(data: bytes) -> Packed:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image)

    planes, masks = [], []
    with tempfile.TemporaryDirectory() as folder:
        dump_atp(Path(folder), images, size)
        store = PseudoLabelStore(Path(folder) / "labels")
        for name in store.names:
            planes.append(pack(store.negatives(name)).numpy())
            masks.append(store.positive(name).numpy())
    rle = zlib.Z_RLE
    ways: list[tuple[str, list[Packed], Callable[[Packed], bytes], Callable[[bytes], Packed]]] = [
        ("planes, `numpy.save` in zstd 1 with checksum (ATP)", planes, saved, loaded),
        ("planes, `numpy.savez_compressed`", planes, partial(zipped, np.savez_compressed), unzipped),
        ("planes, 8-bit PNG, run lengths", planes, partial(png, compress_type=rle), pixels),
        ("masks, PNG, run lengths (ATP)", masks, partial(mask, compress_type=rle), pixels),
        ("masks, PNG, Pillow's default", masks, mask, pixels),
        ("masks, PNG, Pillow's best level", masks, partial(mask, compress_level=9), pixels),
    ]
    print(f"\n**Files of the same arrays**, {size[0]}x{size[1]}, {CLASSES} classes, mean of {images} images\n")
    rows = []
    for name, arrays, encode, decode in ways:
        files = [encode(array) for array in arrays]
        for file, array in zip(files, arrays, strict=True):
            assert np.array_equal(decode(file).reshape(array.shape), array), name
        writing = statistics.mean(min(timed(encode, array) for _ in range(3)) for array in arrays)
        reading = statistics.mean(min(timed(decode, file) for _ in range(3)) for file in files)
        kilobytes = sum(map(len, files)) / len(files) / 1e3
        rows.append([name, f"{kilobytes:.2f}", f"{writing * 1e3:.2f}", f"{reading * 1e3:.2f}"])
    print_table(["", "kB an image", "write, ms", "read, ms"], rows)


RATIOS = (0.3, 0.5, 0.65, 0.8)


def codes(size: tuple[int, int], images: int) -> None:
    """Pixels kept beyond K by the class furthest from it, and size of the codes, for other numbers of mantissa bits."""
    logits = [scene(index, size) for index in range(images)]
    uncertain = [0.5 * each for each in logits]
    mean = [
        float(torch.stack([forward(each).max(0).values.mean() for each in of]).mean()) for of in (logits, uncertain)
    ]
    rows = []
    for bits in (4, 6, 8, 10):
        with mantissa_bits(bits):
            (excess, size_), (less, _) = coded(logits), coded(uncertain)
            rows.append([f"{2**bits}", f"{thresholds.CERTAIN + 1}", f"{excess:.2f}", f"{less:.2f}", f"{size_:.0f}"])
    print(f"\n**Confidence codes**, {size[0]}x{size[1]}, {CLASSES} classes, {images} images, K of {RATIOS}\n")
    beyond = "points kept beyond K, worst class"
    header = ["codes per halving", "bins", *(f"{beyond}, mean confidence {value:.2f}" for value in mean), "kB an image"]
    print_table(header, rows)


@contextmanager
def mantissa_bits(bits: int) -> Iterator[None]:
    """Let ``thresholds`` keep another number of bits."""
    kept = {name: getattr(thresholds, name) for name in ("_MANTISSA_BITS", "_LOW_CODES", "_DROPPED_BITS", "CERTAIN")}
    certain = (1 << bits) + (thresholds._HALVINGS << bits) + 1
    try:
        for name, value in zip(kept, (bits, 1 << bits, 23 - bits, certain), strict=True):
            setattr(thresholds, name, value)
        yield
    finally:
        for name, value in kept.items():
            setattr(thresholds, name, value)


def coded(logits: Sequence[Tensor]) -> tuple[float, float]:
    """Points kept beyond K by the class furthest from it, for the worst of ``RATIOS``, and kB an image."""
    histogram = thresholds.ConfidenceHistogram(CLASSES, thresholds.CERTAIN + 1)
    size = 0
    for each in logits:
        confidences, labels = forward(each).max(0)
        found = thresholds.confidence_codes(confidences).numpy()
        histogram.update(labels.byte().numpy(), found)
        for part in (found & 0xFF, found >> 8):
            size += len(zstandard.ZstdCompressor(level=1).compress(part.astype(np.uint8).tobytes()))
    pixels = histogram.counts.sum(1)
    predicted = pixels > 0
    excess = [histogram.at_least(histogram.thresholds(k))[predicted] / pixels[predicted] - k for k in RATIOS]
    return 100 * float(np.max(excess)), size / len(logits) / 1e3


def parse_size(text: str) -> tuple[int, int]:
    width, height = map(int, text.split("x"))
    if width % 8 or height % 8:
        raise argparse.ArgumentTypeError(f"{text}: sides must be multiples of 8")
    return width, height


def machine() -> str:
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        model = cpuinfo.read_text().split("model name")[1].splitlines()[0].strip("\t: ")
    return (
        f"{model}, {os.cpu_count()} cores, one used; Python {platform.python_version()}, torch {torch.__version__}, "
        f"numpy {np.__version__}, Pillow {PIL.__version__}, zstandard {zstandard.__version__}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10, help="per run")
    parser.add_argument("--sizes", type=parse_size, nargs="+", default=[(512, 256), (1024, 512)], help="WIDTHxHEIGHT")
    parser.add_argument("--memory-images", type=int, nargs="*", default=[25, 100, 200], help="none skips it")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--containers", action="store_true", help="compare containers of negative labels and masks")
    parser.add_argument("--codes", action="store_true", help="compare resolutions of the confidence codes")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="where to write")
    parser.add_argument("--child", choices=list(METHODS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        run_child(arguments.child, arguments.images, arguments.sizes[0], arguments.scratch)
        return
    print(machine())
    if arguments.containers:
        for size in arguments.sizes:
            containers(size, arguments.images)
            wrappers(size, arguments.images)
    elif arguments.codes:
        codes(arguments.sizes[-1], arguments.images)
    else:
        for size in arguments.sizes:
            compare(arguments.images, size, arguments.scratch, arguments.repeats)
        if arguments.memory_images:
            compare_memory(arguments.memory_images, min(arguments.sizes), arguments.scratch)


if __name__ == "__main__":
    main()
