"""Inference: class probabilities of images, without gradients."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional as F

from atp.data.folder import Sample, image_size
from atp.data.tensors import read_image
from atp.models.network import SegmentationNetwork
from atp.models.segmentation import BatchNorm
from atp.training.runtime import Runtime


@dataclass(frozen=True)
class Predictor:
    """Average predictions over networks and test-time augmentation (flip and multi-scale).

    Attributes:
        networks: pairs of a network and its share of the average; shares sum to 1.
        runtime: device and precision.
        flip: average with the prediction of the mirrored image.
        scales: average over the image at these scales.
    """

    networks: Sequence[tuple[SegmentationNetwork, float]]
    runtime: Runtime
    flip: bool = False
    scales: Sequence[float] = (1.0,)

    def __post_init__(self) -> None:
        for network, _ in self.networks:
            self.runtime.place(network)
            network.eval()

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Class probabilities, float32, (N, C, H, W), of images, uint8, (N, 3, H, W)."""
        images = images.to(self.runtime.device, memory_format=self.runtime.memory_format)
        size = images.shape[-2:]
        total: Tensor | None = None
        for scale in self.scales:
            zoomed = images
            if scale != 1:
                extent = [max(1, round(side * scale)) for side in size]
                zoomed = F.interpolate(images.float() / 255, extent, mode="bilinear", antialias=True)
            for mirrored in (False, True) if self.flip else (False,):
                view = zoomed.flip(-1) if mirrored else zoomed
                for network, share in self.networks:
                    with self.runtime.autocast():
                        logits = network(view)
                    logits = logits.float()
                    if scale != 1:
                        logits = F.interpolate(logits, size, mode="bilinear")
                    part = logits.softmax(1) * share
                    part = part.flip(-1) if mirrored else part
                    total = part if total is None else total.add_(part)
        assert total is not None, "needs at least one network and one scale"
        return total / (len(self.scales) * (2 if self.flip else 1))


def chunks(samples: Sequence[Sample], size: tuple[int, int] | None, length: int = 8) -> list[list[Sample]]:
    """Group consecutive samples of one image size into chunks of at most ``length``.

    The chunks are the same in every process and after every restart, since the number of images in a forward pass can
    change the last bits of a result.
    """
    # With a common size, the files need not be read.
    key = (lambda sample: size) if size else (lambda sample: image_size(sample.image))
    groups = [list(group) for _, group in groupby(samples, key)]
    return [group[first : first + length] for group in groups for first in range(0, len(group), length)]


def read_chunks(
    parts: Sequence[Sequence[Sample]], size: tuple[int, int] | None
) -> Iterator[tuple[Sequence[Sample], Tensor]]:
    """Yield each chunk with its images, uint8, (N, 3, H, W)."""
    for part in parts:
        yield part, torch.stack([read_image(sample.image, size) for sample in part])


@torch.no_grad()
def reestimate_batchnorm(
    network: SegmentationNetwork, samples: Sequence[Sample], size: tuple[int, int] | None, runtime: Runtime
) -> None:
    """Replace BatchNorm's running statistics by those of these images, with equal weight for each chunk."""
    for module in network.modules():
        if isinstance(module, BatchNorm):
            module.reset_running_stats()
    # In PyTorch, None means the plain average over all batches.
    update_batchnorm(network, chunks(samples, size), size, runtime, lambda number: None)


@torch.no_grad()
def update_batchnorm(
    network: SegmentationNetwork,
    batches: Sequence[Sequence[Sample]],
    size: tuple[int, int] | None,
    runtime: Runtime,
    momentum: Callable[[int], float | None],
) -> None:
    """Update BatchNorm's running statistics with batches of images, each of one size.

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
    for number, (_, images) in enumerate(read_chunks(batches, size)):
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
