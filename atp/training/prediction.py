"""Inference: class probabilities of images, without gradients."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby, islice
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from atp.data.folder import Sample, image_size, resized
from atp.data.passes import ahead, threads
from atp.data.prepared import UNPREPARED, Prepared
from atp.data.reading import Size, check_window
from atp.data.tensors import image_tensor
from atp.models.network import SegmentationNetwork
from atp.models.segmentation import BatchNorm
from atp.training.runtime import Runtime, runtime_of

Made = TypeVar("Made")
Done = TypeVar("Done")

CHUNK = 8
"""Number of images in a forward pass, and of windows of one image."""


@dataclass(frozen=True)
class Predictor:
    """Average predictions over networks and test-time augmentation (flip and multi-scale).

    Attributes:
        networks: pairs of a network and its share of the average; shares sum to 1.
        runtime: device and precision.
        flip: average with the prediction of the mirrored image.
        scales: average over the image at these scales.
        window: (width, height) of the overlapping windows in which an image is predicted; None predicts it as a whole.
    """

    networks: Sequence[tuple[SegmentationNetwork, float]]
    runtime: Runtime
    flip: bool = False
    scales: Sequence[float] = (1.0,)
    window: Size | None = None

    def __post_init__(self) -> None:
        for network, _ in self.networks:
            self.runtime.place(network)
            network.eval()

    @property
    def chunk(self) -> int:
        """Number of images to predict at once; with windows, whole images do not fit into the network."""
        return CHUNK if self.window is None else 1

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Class probabilities, float32, (N, C, H, W), of images, uint8, (N, 3, H, W).

        Raises:
            InputError: if the images are smaller than the windows.
        """
        images = images.to(self.runtime.device, memory_format=self.runtime.memory_format)
        size = images.shape[-2:]
        check_window(self.window, (size[1], size[0]), f"an image of {size[1]}x{size[0]}")
        total: Tensor | None = None
        for scale in self.scales:
            zoomed = images
            if scale != 1:
                extent = [max(1, round(side * scale)) for side in size]
                zoomed = F.interpolate(images.float() / 255, extent, mode="bilinear", antialias=True)
            for mirrored in (False, True) if self.flip else (False,):
                view = zoomed.flip(-1) if mirrored else zoomed
                for network, share in self.networks:
                    part = self._of_view(network, view, size) * share
                    part = part.flip(-1) if mirrored else part
                    total = part if total is None else total.add_(part)
        assert total is not None, "needs at least one network and one scale"
        return total / (len(self.scales) * (2 if self.flip else 1))

    def image(self, image: Image.Image, size: Size | None) -> Tensor:
        """Class probabilities of one RGB image at its own size, float32, (C, H, W).

        Every prediction outside of training is made here or, for several images of one size at once, in ``evaluate``,
        with the same bits.

        Args:
            size: size to which it is resized for the network; None keeps its own.
        """
        (own,) = self.probabilities(image_tensor(resized(image, size))[None])
        return at_size(own, (image.height, image.width))

    def _of_view(self, network: SegmentationNetwork, view: Tensor, size: Sequence[int]) -> Tensor:
        """Probabilities (N, C, H, W) at ``size``, (H, W), of a view of the images."""
        height, width = view.shape[-2:]
        if self.window is None or (self.window[0] >= width and self.window[1] >= height):
            logits = self._logits(network, view)
            if (height, width) != tuple(size):
                logits = F.interpolate(logits, tuple(size), mode="bilinear")
            return logits.softmax(1)
        # One by one, so that a result does not depend on the other images.
        blended = torch.stack([self._blended(network, image, self.window) for image in view])
        return blended if (height, width) == tuple(size) else F.interpolate(blended, tuple(size), mode="bilinear")

    def _blended(self, network: SegmentationNetwork, image: Tensor, window: Size) -> Tensor:
        """Probabilities (C, H, W) of an image (3, H, W): the mean over all windows that contain a pixel.

        A window's weight falls linearly from its centre to its edges, so that no seams remain.
        """
        (height, width), places = windows(image.shape[1:], window)
        weight = (_ramp(height)[:, None] * _ramp(width)).to(image.device)
        total = torch.zeros((network.num_classes, *image.shape[1:]), device=image.device)
        weights = torch.zeros(image.shape[1:], device=image.device)
        for first in range(0, len(places), CHUNK):
            some = places[first : first + CHUNK]
            views = torch.stack([image[:, top : top + height, left : left + width] for top, left in some])
            logits = self._logits(network, views.contiguous(memory_format=self.runtime.memory_format))
            for (top, left), own in zip(some, logits.softmax(1) * weight, strict=True):
                total[:, top : top + height, left : left + width] += own
                weights[top : top + height, left : left + width] += weight
        return total / weights

    def _logits(self, network: SegmentationNetwork, images: Tensor) -> Tensor:
        with self.runtime.autocast():
            logits: Tensor = network(images)
        return logits.float()


def predictor_of(network: SegmentationNetwork, device: torch.device, window: Size | None) -> Predictor:
    """Predict with a finished model, in the precision in which it was adapted where the device supports it."""
    return Predictor([(network, 1.0)], runtime_of(network.precision, device), window=window)


def at_size(probabilities: Tensor, shape: Sequence[int]) -> Tensor:
    """Resize probabilities, (C, h, w), to ``shape``, (H, W)."""
    if tuple(probabilities.shape[-2:]) == tuple(shape):
        return probabilities
    return F.interpolate(probabilities[None], tuple(shape), mode="bilinear")[0]


def windows(shape: Sequence[int], window: Size) -> tuple[tuple[int, int], list[tuple[int, int]]]:
    """(height, width) of the windows of an image of ``shape``, (H, W), and the (top, left) of each."""
    height, width = min(window[1], shape[0]), min(window[0], shape[1])
    return (height, width), [(top, left) for top in starts(shape[0], height) for left in starts(shape[1], width)]


def in_windows(batches: Iterable[Tensor], window: Size | None) -> Iterator[Tensor]:
    """Cut batches of images, (N, 3, H, W), into their windows, a few at a time; whole images without ``window``."""
    for images in batches:
        if window is None:
            yield images
            continue
        (height, width), places = windows(images.shape[-2:], window)
        views = torch.cat([images[..., top : top + height, left : left + width] for top, left in places])
        yield from (views[first : first + CHUNK] for first in range(0, len(views), CHUNK))


def starts(length: int, window: int) -> list[int]:
    """First pixels of windows that cover ``length`` pixels evenly and overlap by at least a third."""
    if window >= length:
        return [0]
    stride = max(1, 2 * window // 3)
    gaps = -(-(length - window) // stride)
    return [index * (length - window) // gaps for index in range(gaps + 1)]


def _ramp(length: int) -> Tensor:
    """Weights of a window's pixels along one axis, in (0, 1], symmetric."""
    rising = torch.arange(1, length + 1, dtype=torch.float32)
    ramp = torch.minimum(rising, rising.flip(0))
    return ramp / ramp.max()


def chunks(samples: Sequence[Sample], size: Size | None, length: int = CHUNK) -> list[list[Sample]]:
    """Group consecutive samples of one image size into chunks of at most ``length``.

    The chunks are the same in every process and after every restart, since the number of images in a forward pass can
    change the last bits of a result.
    """
    # With a common size, the files need not be read.
    key = (lambda sample: size) if size else (lambda sample: image_size(sample.image))
    groups = [list(group) for _, group in groupby(samples, key)]
    return [group[first : first + length] for group in groups for first in range(0, len(group), length)]


def read_chunks(
    parts: Sequence[Sequence[Sample]], read: Callable[[Sample], Tensor], runtime: Runtime
) -> Iterator[tuple[Sequence[Sample], Tensor]]:
    """Yield each chunk with its images, uint8, (N, 3, H, W), on the device.

    ``runtime.workers`` threads read the next chunk meanwhile.

    Args:
        parts: see ``chunks``.
        read: reads an image, uint8, (3, H, W).
    """
    with threads(runtime.workers) as pool:
        yield from _read_in(pool, parts, read, runtime)


def pass_over(
    parts: Sequence[Sequence[Sample]],
    read: Callable[[Sample], Tensor],
    runtime: Runtime,
    compute: Callable[[Tensor], Iterable[Made]],
    finish: Callable[[Sample, Made], Done],
) -> Iterator[Done]:
    """Yield a result for each image in order; reading and finishing go on in threads while the network computes.

    Nothing depends on ``runtime.workers``, the number of threads, but the time, and the memory: they hold the images of
    two more chunks, and what was made of one more.

    Args:
        parts, read: see ``read_chunks``.
        compute: maps a chunk's images, uint8, (N, 3, H, W), on the device, to something for each; called here.
        finish: called in a thread; it may wait for the device, and may write a file.
    """
    with threads(runtime.workers) as pool:

        def made() -> Iterator[tuple[Sample, Made]]:
            for part, images in _read_in(pool, parts, read, runtime):
                yield from zip(part, compute(images), strict=True)

        yield from ahead(pool, lambda pair: finish(*pair), made(), longest(parts))


def _read_in(
    pool: Executor | None, parts: Sequence[Sequence[Sample]], read: Callable[[Sample], Tensor], runtime: Runtime
) -> Iterator[tuple[Sequence[Sample], Tensor]]:
    on_gpu = runtime.device.type == "cuda"

    def pinned(sample: Sample) -> Tensor:
        image = read(sample)
        return image.pin_memory() if on_gpu else image

    images = ahead(pool, pinned, chain.from_iterable(parts), longest(parts) + runtime.workers)
    for part in parts:
        own = islice(images, len(part))
        yield part, torch.stack([image.to(runtime.device, non_blocking=True) for image in own])


def longest(parts: Sequence[Sequence[Sample]]) -> int:
    return max(map(len, parts), default=0)


@torch.no_grad()
def reestimate_batchnorm(
    network: SegmentationNetwork,
    samples: Sequence[Sample],
    size: Size | None,
    runtime: Runtime,
    window: Size | None = None,
    prepared: Prepared = UNPREPARED,
) -> None:
    """Replace BatchNorm's running statistics by those of these images, with equal weight for each chunk.

    Args:
        prepared: images that need not be decoded again.
        window: size of the windows in which the images are read; None reads whole images.
    """
    for module in network.modules():
        if isinstance(module, BatchNorm):
            module.reset_running_stats()
    read = partial(prepared.image, size=size)
    images = (images for _, images in read_chunks(chunks(samples, size), read, runtime))
    # In PyTorch, None means the plain average over all batches.
    update_batchnorm(network, in_windows(images, window), runtime, lambda number: None)


@torch.no_grad()
def update_batchnorm(
    network: SegmentationNetwork,
    batches: Iterable[Tensor],
    runtime: Runtime,
    momentum: Callable[[int], float | None],
) -> None:
    """Update BatchNorm's running statistics with batches of images, uint8, (N, 3, H, W).

    All other layers are in evaluation mode, so that the statistics match the layers' inputs at inference.

    Args:
        momentum: maps a batch's number, from 0, to the share of its statistics in the updated ones, as PyTorch's
            BatchNorm defines it.
    """
    runtime.place(network)
    layers = [m for m in network.modules() if isinstance(m, BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    network.eval()
    for layer in layers:
        layer.train()
    for number, images in enumerate(batches):
        for layer in layers:
            layer.momentum = momentum(number)
        if len(images) == 1:
            # After global pooling, a single image has one value per channel and no variance.
            images = torch.cat([images, images.flip(-1)])
        with runtime.autocast():
            network(images.to(runtime.device, memory_format=runtime.memory_format))
    for layer, own in zip(layers, momenta, strict=True):
        layer.momentum = own
    network.eval()
