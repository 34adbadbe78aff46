"""From images to class probabilities, without gradients."""

from collections.abc import Iterator, Sequence
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
    """Averages the predictions of networks, mirrored images and zooms.

    Attributes:
        networks: each with its share of the average; shares add up to 1.
        runtime: where.
        flip: average with the mirrored image's prediction.
        scales: average over these zooms of the image.
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
        """Images uint8, (N, 3, H, W), to softmax outputs, float32, (N, C, H, W)."""
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
        assert total is not None, "at least one network, one scale"
        return total / (len(self.scales) * (2 if self.flip else 1))


def chunks(samples: Sequence[Sample], size: tuple[int, int] | None, length: int = 8) -> list[list[Sample]]:
    """Consecutive samples of one image size, at most ``length`` together.

    The chunks are the same in every process and after every restart: how many images share a forward pass can change
    the last bits of a result.
    """
    # A common size needs no look at the files.
    key = (lambda sample: size) if size else (lambda sample: image_size(sample.image))
    groups = [list(group) for _, group in groupby(samples, key)]
    return [group[first : first + length] for group in groups for first in range(0, len(group), length)]


def read_chunks(
    parts: Sequence[Sequence[Sample]], size: tuple[int, int] | None
) -> Iterator[tuple[Sequence[Sample], Tensor]]:
    """Each chunk with its images, uint8, (N, 3, H, W)."""
    for part in parts:
        yield part, torch.stack([read_image(sample.image, size) for sample in part])


@torch.no_grad()
def reestimate_batchnorm(
    network: SegmentationNetwork, samples: Sequence[Sample], size: tuple[int, int] | None, runtime: Runtime
) -> None:
    """Replace BatchNorm's running statistics by those of these images, each chunk counting the same; nothing else.

    All else is in evaluation mode: the statistics are those of what the layers will be given.
    """
    runtime.place(network)
    layers = [m for m in network.modules() if isinstance(m, BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    network.eval()
    for layer in layers:
        layer.reset_running_stats()
        # None is PyTorch's word for the plain mean over all batches.
        layer.momentum = None
        layer.train()
    for _, images in read_chunks(chunks(samples, size), size):
        if len(images) == 1:
            # One value has no variance, and that is all that global pooling leaves of an image.
            images = torch.cat([images, images.flip(-1)])
        with runtime.autocast():
            network(images.to(runtime.device, memory_format=runtime.memory_format))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    network.eval()
