"""Loading of samples from disk as batches in a fixed, resumable order.

Every item has a seed derived from (seed, epoch, position), so that a batch depends neither on the number of workers nor
on where an interrupted run resumes.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pickle import UnpicklingError
from typing import Any, Protocol, Self, TypeVar, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

from atp.data.folder import Sample
from atp.data.labels import IGNORE
from atp.data.prepared import UNPREPARED, Prepared
from atp.data.settings import Augmentation
from atp.data.tensors import read_label
from atp.data.transforms import Augment
from atp.errors import InputError


@dataclass(frozen=True)
class Batch:
    """Images and the stage's labels.

    Attributes:
        weak: images with geometric augmentation only, uint8, (N, 3, H, W).
        strong: images with colour augmentation as well, uint8, (N, 3, H, W).
        labels: class ids, 255 = none, int64, (N, H, W).
        valid: False at padding, bool, (N, H, W).
        negatives: True where a class is absent, bool, (N, C, H, W); empty if a stage has none.
        classes: the most probable classes, 255 = no class, uint8, (N, k, H, W); empty if a stage has none.
        probabilities: probabilities of ``classes``, 0 for no class, float32, (N, k, H, W).
        second: ``strong`` with other random numbers, uint8, (N, 3, H, W); (N, 0, H, W) if a stage has none.
    """

    weak: Tensor
    strong: Tensor
    labels: Tensor
    valid: Tensor
    negatives: Tensor
    classes: Tensor
    probabilities: Tensor
    second: Tensor

    def to(self, device: torch.device, memory_format: torch.memory_format) -> Self:
        weak = self.weak.to(device, non_blocking=True, memory_format=memory_format)
        strong = (
            weak if self.strong is self.weak else self.strong.to(device, non_blocking=True, memory_format=memory_format)
        )
        second = self.second.to(device, non_blocking=True, memory_format=memory_format)
        rest = {f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)[2:-1]}
        return replace(self, weak=weak, strong=strong, **rest, second=second)

    def pin_memory(self) -> Self:
        pinned = {f.name: getattr(self, f.name).pin_memory() for f in fields(self)}
        return replace(self, **pinned)


AnyBatch = TypeVar("AnyBatch", "Batch", "PairBatch")
_MadeBatch = TypeVar("_MadeBatch", "Batch", "PairBatch", covariant=True)

Item = tuple[Tensor, ...]
"""The fields of a ``Batch``, in order, for one image."""


class TrainingSet(Protocol[_MadeBatch]):
    """Interface of data sets for the training loop."""

    @property
    def cropped(self) -> bool:
        """Whether images are cropped randomly, which random scaling requires."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: tuple[int, int]) -> Any: ...

    def collate(self, items: list[Any]) -> _MadeBatch: ...


@dataclass(frozen=True)
class Labels:
    """Labels of one image.

    Attributes:
        ids: uint8, (H, W).
        negatives: bool, (C, H, W), if the stage has them.
        classes, probabilities: uint8 and float32, (k, H, W), as in ``Batch``; k may differ between images. For 19
            classes and k = 4, dense probabilities would take five times the memory.
    """

    ids: Tensor
    negatives: Tensor | None = None
    classes: Tensor | None = None
    probabilities: Tensor | None = None


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
        second: bool = False,
        window: tuple[int, int] | None = None,
        prepared: Prepared = UNPREPARED,
    ) -> None:
        """Describe the images; none is read yet.

        Args:
            labels: returns an image's labels at the size at which it is read; without it, all labels are 255.
            second: add a second strong view.
            window: size of the windows in which BatchNorm's statistics are re-estimated.
        """
        self.samples = samples
        self.window = window
        self._augment = Augment(augmentation, crop, second=second)
        self.size = size
        self.cropped = crop is not None
        self._labels = labels
        self.prepared = prepared

    def __len__(self) -> int:
        return len(self.samples)

    def pixels(self, sample: Sample) -> Tensor:
        """An image as it is before augmentation, uint8, (3, H, W)."""
        return self.prepared.image(sample, self.size)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        index, seed = key
        sample = self.samples[index]
        image = self.pixels(sample)
        known = self._labels(sample) if self._labels else Labels(torch.full(image.shape[1:], IGNORE, dtype=torch.uint8))
        none = image.new_empty((0, *image.shape[1:]))
        perhaps = (known.negatives, known.classes, known.probabilities)
        # Zero inside the image; the crop fills padding with 255.
        padding = torch.zeros(image.shape[1:], dtype=torch.uint8)
        torch.manual_seed(seed)
        views = self._augment(image, (known.ids, padding, *(none if mask is None else mask for mask in perhaps)))
        ids, padding, negatives, classes, probabilities = views.masks
        # Padding from the crop has no class, and therefore no probability.
        probabilities = probabilities.float().masked_fill(classes == IGNORE, 0)
        second = views.weak[:0] if views.second is None else views.second
        return views.weak, views.strong, ids, padding == 0, negatives.bool(), classes, probabilities, second

    @staticmethod
    def collate(items: list[Item]) -> Batch:
        """Stack items into a batch; images without colour augmentation are stacked once.

        Raises:
            InputError: if images differ in size, which requires a crop or a common size.
        """
        shapes = {tuple(item[0].shape[1:]) for item in items}
        if len(shapes) > 1:
            sizes = ", ".join(sorted(f"{w}x{h}" for h, w in shapes))
            raise InputError(
                f"images in a batch differ in size ({sizes}); set data.size or data.crop in params.yaml, or size or "
                "crop in AdaptSettings"
            )
        weak, strong, ids, valid, negatives, classes, probabilities, second = zip(*items, strict=True)
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
            torch.stack(second),
        )


@dataclass(frozen=True)
class Images:
    """Images of one domain and how to read them.

    Attributes:
        samples: the image files.
        size: (width, height) to which each image is resized; None keeps its own.
        crop: (width, height) of random training crops; None trains on whole images.
        window: (width, height) of the windows in which labels are dumped and BatchNorm's statistics re-estimated; None
            takes whole images.
        prepared: images that need not be decoded again.
    """

    samples: Sequence[Sample]
    size: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    window: tuple[int, int] | None = None
    prepared: Prepared = UNPREPARED

    def pixels(self, sample: Sample) -> Tensor:
        """An image, uint8, (3, H, W)."""
        return self.prepared.image(sample, self.size)

    def named(self, names: Sequence[str]) -> "Images":
        """Select images by name, in this order."""
        samples = {sample.name: sample for sample in self.samples}
        return replace(self, samples=[samples[name] for name in names])

    def augmented(
        self, augmentation: Augmentation, labels: Callable[[Sample], Labels] | None = None, *, second: bool = False
    ) -> "TrainingImages":
        """The images as a training set; ``labels`` and ``second`` as in ``TrainingImages``."""
        return TrainingImages(
            self.samples,
            augmentation,
            size=self.size,
            crop=self.crop,
            labels=labels,
            second=second,
            window=self.window,
            prepared=self.prepared,
        )


def _padded(planes: Tensor, count: int, value: float) -> Tensor:
    """Pad planes (k, H, W) with ``value`` to (count, H, W)."""
    return F.pad(planes, (0, 0, 0, 0, 0, count - len(planes)), value=value) if len(planes) < count else planes


@dataclass(frozen=True)
class PairBatch:
    """A batch of easy images and one of as many hard images."""

    easy: Batch
    hard: Batch

    def to(self, device: torch.device, memory_format: torch.memory_format) -> Self:
        return replace(self, easy=self.easy.to(device, memory_format), hard=self.hard.to(device, memory_format))

    def pin_memory(self) -> Self:
        return replace(self, easy=self.easy.pin_memory(), hard=self.hard.pin_memory())


class PairedImages:
    """Pairs of an easy image and a random hard one; its length is the number of easy images."""

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
    """This process's share of the batches of (index, seed) for the steps ``start`` .. ``steps`` - 1.

    Every epoch is a new permutation, or with ``weights`` a sample with replacement. Incomplete batches are dropped; if
    there are fewer images than a batch, they are repeated.
    """

    def __init__(
        self,
        images: int,
        batch_size: int,
        epochs: int | None,
        seed: int,
        *,
        steps: int | None = None,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
        weights: Tensor | None = None,
    ) -> None:
        """``steps`` is the total number of steps if ``epochs`` is None, and may end within an epoch."""
        if batch_size % world_size:
            raise InputError(f"params.yaml: batch_size {batch_size}: must be a multiple of the {world_size} processes")
        self.steps_per_epoch = max(1, images // batch_size)
        length = steps if epochs is None else self.steps_per_epoch * epochs
        if length is None:
            raise ValueError("needs epochs or steps")
        self.steps = length
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
    """Combine numbers into a 63-bit seed; adjacent numbers give unrelated seeds (splitmix64's finaliser)."""
    state = 0
    for part in parts:
        state = (state + part + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1


@dataclass(frozen=True)
class _Told:
    """A data set that returns an ``InputError`` as an item instead of raising it.

    An exception raised in a worker would reach the main process as a different one, with a traceback as its message.
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
    """Yield batches in the sampler's order.

    Raises:
        InputError: raised in the iterating process, even if it occurred in a worker.
    """
    told = _Told(images)
    loader: DataLoader[Any] = DataLoader(
        # PyTorch's annotations only allow int keys.
        cast("Dataset[Any]", told),
        batch_sampler=cast("Sampler[list[Any]]", order),
        num_workers=workers,
        collate_fn=told.collate,
        pin_memory=pin_memory,
        # Forked, so that workers inherit the ban on opening certain files; on other systems, forking is not safe.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
    )
    for batch in _handed_over(loader) if workers else loader:
        if isinstance(batch, InputError):
            raise batch
        yield batch


def _handed_over(loader: Iterable[AnyBatch]) -> Iterator[AnyBatch]:
    """Batches from workers; a worker that is killed while it hands one over fails as one that is killed elsewhere.

    PyTorch receives a batch by sockets and shared memory, whose errors say nothing of a worker.
    """
    try:
        yield from loader
    except (EOFError, OSError, RuntimeError, UnpicklingError) as error:
        if any(known in str(error) for known in ("DataLoader worker", "Too many open files")):
            raise
        raise RuntimeError("DataLoader worker was killed while it handed over a batch") from error


@dataclass(frozen=True)
class FolderLabels:
    """Read labels from a sample's label file, resized like its image.

    A class, not a closure, since it is pickled if workers are spawned instead of forked.
    """

    num_classes: int
    size: tuple[int, int] | None = None
    prepared: Prepared = UNPREPARED

    def __call__(self, sample: Sample) -> Labels:
        path = sample.label
        if path is None:
            raise InputError(f"{sample.image}: has no label; set the folder of labels")
        return Labels(self.prepared.get(path, lambda: read_label(path, self.num_classes, self.size)))
