"""From samples on disk to batches in a fixed, resumable order.

Every item is drawn with a seed made from (seed, epoch, position), so what a batch holds depends neither on the number
of workers nor on where a killed run continues.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

from atp.data.folder import Sample
from atp.data.labels import IGNORE
from atp.data.settings import Augmentation
from atp.data.tensors import read_image, read_label
from atp.data.transforms import Augment
from atp.errors import InputError


@dataclass(frozen=True)
class Batch:
    """Images and whatever labels the stage has.

    Attributes:
        weak: uint8, (N, 3, H, W), geometry only.
        strong: uint8, (N, 3, H, W), colours changed as well.
        labels: int64, (N, H, W), class ids, 255 = none.
        valid: bool, (N, H, W), False at padding.
        negatives: bool, (N, C, H, W), True where a class is absent; empty where a stage has none.
        classes: uint8, (N, k, H, W), the most probable classes, 255 = no class; empty where a stage has none.
        probabilities: float32, (N, k, H, W), of those classes, 0 where none is named.
    """

    weak: Tensor
    strong: Tensor
    labels: Tensor
    valid: Tensor
    negatives: Tensor
    classes: Tensor
    probabilities: Tensor

    def to(self, device: torch.device, memory_format: torch.memory_format) -> Self:
        weak = self.weak.to(device, non_blocking=True, memory_format=memory_format)
        strong = (
            weak if self.strong is self.weak else self.strong.to(device, non_blocking=True, memory_format=memory_format)
        )
        rest = {f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)[2:]}
        return replace(self, weak=weak, strong=strong, **rest)

    def pin_memory(self) -> Self:
        pinned = {f.name: getattr(self, f.name).pin_memory() for f in fields(self)}
        return replace(self, **pinned)


AnyBatch = TypeVar("AnyBatch", "Batch", "PairBatch")
_MadeBatch = TypeVar("_MadeBatch", "Batch", "PairBatch", covariant=True)

Item = tuple[Tensor, ...]
"""What a ``Batch`` holds, of one image, in its order."""


class TrainingSet(Protocol[_MadeBatch]):
    """What the training loop asks of a data set."""

    @property
    def cropped(self) -> bool:
        """Whether the images are random crops, without which there is no random zoom."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: tuple[int, int]) -> Any: ...

    def collate(self, items: list[Any]) -> _MadeBatch: ...


@dataclass(frozen=True)
class Labels:
    """What a stage knows of one image.

    Attributes:
        ids: uint8, (H, W).
        negatives: bool, (C, H, W), if the stage has them.
        classes, probabilities: uint8 and float32, (k, H, W), as in ``Batch``; k may differ between images. Dense
            probabilities would be five times as much to move for 19 classes and k = 4.
    """

    ids: Tensor
    negatives: Tensor | None = None
    classes: Tensor | None = None
    probabilities: Tensor | None = None


class ImageCache:
    """Decoded tensors by path, up to a number of bytes; the first ones stay, since epochs visit all alike."""

    def __init__(self, limit_mb: int) -> None:
        self._left = limit_mb * 1024 * 1024
        self._held: dict[Path, Tensor] = {}

    def get(self, path: Path, read: Callable[[], Tensor]) -> Tensor:
        held = self._held.get(path)
        if held is None:
            held = read()
            if held.nbytes <= self._left:
                self._left -= held.nbytes
                self._held[path] = held
        return held


class TrainingImages:
    """Augmented images of one data set, indexed by (index, seed)."""

    def __init__(
        self,
        samples: Sequence[Sample],
        augmentation: Augmentation,
        *,
        size: tuple[int, int] | None = None,
        crop: tuple[int, int] | None = None,
        labels: Callable[[Sample], Labels] | None = None,
        cache: ImageCache | None = None,
    ) -> None:
        """``labels`` gives an image's labels at the size at which it is read; without it all labels are 255."""
        self.samples = samples
        self._augment = Augment(augmentation, crop)
        self.size = size
        self.cropped = crop is not None
        self._labels = labels
        self._cache = cache or ImageCache(0)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        index, seed = key
        sample = self.samples[index]
        image = self._cache.get(sample.image, lambda: read_image(sample.image, self.size))
        known = self._labels(sample) if self._labels else Labels(torch.full(image.shape[1:], IGNORE, dtype=torch.uint8))
        none = image.new_empty((0, *image.shape[1:]))
        perhaps = (known.negatives, known.classes, known.probabilities)
        # Zero inside the image; the crop fills padding with 255.
        padding = torch.zeros(image.shape[1:], dtype=torch.uint8)
        torch.manual_seed(seed)
        views = self._augment(image, (known.ids, padding, *(none if mask is None else mask for mask in perhaps)))
        ids, padding, negatives, classes, probabilities = views.masks
        # What the crop filled names no class, and so has no probability.
        probabilities = probabilities.float().masked_fill(classes == IGNORE, 0)
        return views.weak, views.strong, ids, padding == 0, negatives.bool(), classes, probabilities

    @staticmethod
    def collate(items: list[Item]) -> Batch:
        """Stack items into a batch; images without changed colours are stacked once.

        Raises:
            InputError: images of several sizes, which only a crop or a common size can batch.
        """
        shapes = {tuple(item[0].shape[1:]) for item in items}
        if len(shapes) > 1:
            sizes = ", ".join(sorted(f"{w}x{h}" for h, w in shapes))
            raise InputError(
                f"images of several sizes in a batch ({sizes}); set data.size or data.crop in params.yaml, or size or "
                "crop of AdaptSettings"
            )
        weak, strong, ids, valid, negatives, classes, probabilities = zip(*items, strict=True)
        planes = max(map(len, classes))
        stacked = torch.stack(weak)
        changed = any(s is not w for w, s in zip(weak, strong, strict=True))
        return Batch(
            stacked,
            torch.stack(strong) if changed else stacked,
            torch.stack(ids).long(),
            torch.stack(valid),
            torch.stack(negatives),
            torch.stack([_padded(each, planes, IGNORE) for each in classes]),
            torch.stack([_padded(each, planes, 0) for each in probabilities]),
        )


@dataclass(frozen=True)
class Images:
    """Images of one domain and how they are read.

    Attributes:
        samples: on disk.
        size: (width, height) to which each is resized; None keeps its own.
        crop: (width, height) of random training crops; None trains on whole images.
        cache: of decoded images.
    """

    samples: Sequence[Sample]
    size: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    cache: "ImageCache" = field(default_factory=lambda: ImageCache(0))

    def named(self, names: Sequence[str]) -> "Images":
        """Those of these names, in this order."""
        samples = {sample.name: sample for sample in self.samples}
        return replace(self, samples=[samples[name] for name in names])

    def augmented(
        self, augmentation: Augmentation, labels: Callable[[Sample], Labels] | None = None
    ) -> "TrainingImages":
        """For training; ``labels`` as for ``TrainingImages``."""
        return TrainingImages(
            self.samples, augmentation, size=self.size, crop=self.crop, labels=labels, cache=self.cache
        )


def _padded(planes: Tensor, count: int, value: float) -> Tensor:
    """Planes (k, H, W) with as many of a value behind them as make ``count``."""
    return F.pad(planes, (0, 0, 0, 0, 0, count - len(planes)), value=value) if len(planes) < count else planes


@dataclass(frozen=True)
class PairBatch:
    """As many easy images as hard ones."""

    easy: Batch
    hard: Batch

    def to(self, device: torch.device, memory_format: torch.memory_format) -> Self:
        return replace(self, easy=self.easy.to(device, memory_format), hard=self.hard.to(device, memory_format))

    def pin_memory(self) -> Self:
        return replace(self, easy=self.easy.pin_memory(), hard=self.hard.pin_memory())


class PairedImages:
    """Every easy image with a hard one drawn at random; as long as there are easy images."""

    def __init__(self, easy: TrainingImages, hard: TrainingImages) -> None:
        self._easy, self._hard = easy, hard
        self.cropped = easy.cropped

    def __len__(self) -> int:
        return len(self._easy)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Item, Item]:
        index, seed = key
        partner = mix_seed(seed, 1)
        return self._easy[index, seed], self._hard[partner % len(self._hard), partner]

    @staticmethod
    def collate(items: list[tuple[Item, Item]]) -> PairBatch:
        easy, hard = zip(*items, strict=True)
        return PairBatch(TrainingImages.collate(list(easy)), TrainingImages.collate(list(hard)))


class TrainingOrder(Sampler[list[tuple[int, int]]]):
    """Batches of (index, seed) for the steps ``start`` .. ``steps`` - 1, this process's share of each.

    Every epoch is a fresh permutation, or with ``weights`` a draw with replacement; an epoch's incomplete batch is left
    out, and fewer images than a batch are repeated to fill one.
    """

    def __init__(
        self,
        images: int,
        batch_size: int,
        epochs: int,
        seed: int,
        *,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
        weights: Tensor | None = None,
    ) -> None:
        if batch_size % world_size:
            raise InputError(f"params.yaml: batch_size {batch_size} cannot be shared by {world_size} processes evenly")
        self.steps_per_epoch = max(1, images // batch_size)
        self.steps = self.steps_per_epoch * epochs
        self._images, self._batch_size, self._seed, self._start = images, batch_size, seed, start
        self._mine = slice(rank, None, world_size)
        self._weights = weights

    def __len__(self) -> int:
        return self.steps - self._start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self._start, self.steps):
            epoch, place = divmod(step, self.steps_per_epoch)
            if step == self._start or place == 0:
                order = self._order(epoch)
            first = place * self._batch_size
            keys = [
                (order[position % len(order)], mix_seed(self._seed, epoch, position))
                for position in range(first, first + self._batch_size)
            ]
            yield keys[self._mine]

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(mix_seed(self._seed, epoch))
        if self._weights is not None:
            count = self.steps_per_epoch * self._batch_size
            return torch.multinomial(self._weights, count, replacement=True, generator=generator).tolist()
        return torch.randperm(self._images, generator=generator).tolist()


def mix_seed(*parts: int) -> int:
    """One 63-bit seed from several numbers; neighbours give unrelated seeds (splitmix64's finaliser)."""
    state = 0
    for part in parts:
        state = (state + part + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1


@dataclass(frozen=True)
class _Told:
    """A data set whose bad input is an item instead of an exception.

    A worker's exception would reach the main process as another one, with a traceback for its message.
    """

    images: TrainingSet[Any]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> Any:
        try:
            return self.images[key]
        except InputError as error:
            return error

    def collate(self, items: list[Any]) -> Any:
        errors = [item for item in items if isinstance(item, InputError)]
        try:
            return errors[0] if errors else self.images.collate(items)
        except InputError as error:
            return error


def training_loader(
    images: TrainingSet[AnyBatch], order: TrainingOrder, *, workers: int, pin_memory: bool
) -> Iterator[AnyBatch]:
    """Batches in the sampler's order.

    Raises:
        InputError: in the process that iterates, whichever process met it.
    """
    told = _Told(images)
    loader: DataLoader[Any] = DataLoader(
        # PyTorch's annotations do not foresee keys that are no ints.
        cast("Dataset[Any]", told),
        batch_sampler=cast("Sampler[list[Any]]", order),
        num_workers=workers,
        collate_fn=told.collate,
        pin_memory=pin_memory,
        # Forked, so that what a stage must not open is closed to them too; on other systems forking is not safe.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
    )
    for batch in loader:
        if isinstance(batch, InputError):
            raise batch
        yield batch


@dataclass(frozen=True)
class FolderLabels:
    """Labels read from a sample's label file, resized like its image.

    A class, not a closure: where workers are spawned rather than forked, it is pickled.
    """

    num_classes: int
    size: tuple[int, int] | None
    cache: ImageCache

    def __call__(self, sample: Sample) -> Labels:
        path = sample.label
        if path is None:
            raise InputError(f"{sample.image}: no label for this image")
        return Labels(self.cache.get(path, lambda: read_label(path, self.num_classes, self.size)))
