"""Answers of a black box on disk: written once, read one image at a time.

    FOLDER/table.json              classes, the box, the images
    FOLDER/answers/NAME.npy.zst    the most probable classes of each pixel and their probabilities

A file (see ``atp.data.arrays``) with k classes per pixel holds uint8, (2, k, H, W): the classes, most probable first,
then codes for the second to k-th probability and for the remainder to 1. The first probability follows from the others.
A code is proportional to the square root of the probability, a scale on which equal errors have equal weight in Eq. 11.
The j-th probability cannot exceed 1/j and is multiplied by j first. From each code the prediction left + up - upper
left of its neighbours is subtracted, since upsampled predictions are nearly piecewise planar. Measured alternatives:
docs/explanation/answer-store.md.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from torch import Tensor
from typing_extensions import TypedDict

from atp.data.arrays import SUFFIX, arrays_to_bytes, damaged, read_arrays
from atp.data.folder import Sample
from atp.data.labels import IGNORE, LabelSpace
from atp.data.loading import Labels
from atp.data.tables import read_table
from atp.errors import InputError
from atp.files import atomic_path
from atp.losses.distillation import dense_probabilities

_FORMAT, _VERSION = "atp answers", 2

LEAST = 1e-3
"""Lower probabilities are dropped: their classes change from pixel to pixel and would take half of the file."""


@dataclass(frozen=True)
class Answer:
    """A black box's answer for one image.

    Attributes:
        classes: ids, most probable first, uint8, (k, H, W); 255 = no class; in plane 0, no answer for the pixel.
        probabilities: probabilities of those classes, float32, (k, H, W), >= 0 and descending, each pixel's sum <= 1; 0
            if there is no class. The remainder to 1 is spread evenly over the other classes.
    """

    classes: Tensor
    probabilities: Tensor

    @classmethod
    def hard(cls, ids: Tensor) -> "Answer":
        """Make an answer from ids only, uint8, (H, W), 255 = no answer."""
        return cls(ids[None], (ids[None] != IGNORE).float())

    @classmethod
    def of(cls, probabilities: Tensor, keep: int) -> "Answer":
        """Keep the ``keep`` highest probabilities, float32, (C, H, W), each pixel's sum 1, or 0 for no answer."""
        kept, classes = probabilities.topk(min(keep, len(probabilities)), dim=0)
        return cls(classes.byte().masked_fill_(kept <= 0, IGNORE), kept.clamp_(0, 1))

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        height, width = self.classes.shape[1:]
        return width, height

    def dense(self, num_classes: int) -> Tensor:
        """Probabilities of all classes, float32, (C, H, W), each pixel's sum 1; 0 if there is no answer."""
        return dense_probabilities(self.classes, self.probabilities, num_classes)

    def to_bytes(self) -> bytes:
        """Encode as a file; lossy except for the first plane of classes and for hard answers."""
        planes = len(self.classes)
        kept = self.probabilities.numpy().copy()
        kept[1:][kept[1:] < LEAST] = 0
        ranks = np.arange(2, planes + 1, dtype=np.float32)[:, None, None]
        missing = np.clip(1 - kept.sum(0), 0, 1) * (self.classes[0].numpy() != IGNORE)
        codes = np.concatenate([kept[1:] * ranks, missing[None]])
        codes = np.rint(255 * np.sqrt(np.clip(codes, 0, 1))).astype(np.uint8)
        classes = self.classes.numpy().copy()
        classes[1:][codes[:-1] == 0] = IGNORE
        zero = np.uint8(0)
        filtered = np.diff(np.diff(codes, axis=2, prepend=zero), axis=1, prepend=zero)
        return arrays_to_bytes(np.stack([classes, filtered]))

    @classmethod
    def read(cls, path: Path) -> "Answer":
        """Read a file.

        Raises:
            InputError: it is missing or damaged.
        """
        (stored,) = read_arrays(path, "query")
        if stored.dtype != np.uint8 or stored.ndim != 4 or len(stored) != 2:
            raise damaged(path, "query")
        classes, filtered = stored
        codes = filtered.cumsum(axis=1, dtype=np.uint8).cumsum(axis=2, dtype=np.uint8)
        squares = (np.arange(256, dtype=np.float32) / 255) ** 2
        probabilities: NDArray[np.float32] = np.empty(classes.shape, np.float32)
        left = 1 - squares[codes[-1]]
        for plane in range(1, len(classes)):
            probabilities[plane] = (squares / (plane + 1))[codes[plane - 1]]
            left -= probabilities[plane]
        probabilities[0] = np.where(classes[0] == IGNORE, 0, np.maximum(left, 0))
        for plane in range(1, len(classes)):
            # Rounding may have reordered equal probabilities.
            np.minimum(probabilities[plane], probabilities[plane - 1], out=probabilities[plane])
        return cls(torch.from_numpy(classes.copy()), torch.from_numpy(probabilities))


class AnsweredImage(TypedDict):
    """One image in the table."""

    name: str
    height: int
    width: int


class AnswerTable(TypedDict):
    """The contents of table.json in a folder of answers.

    Attributes:
        classes: names, in the order of their ids.
        colors: RGB per class, stored here because stages that use the answers cannot open the file of classes.
        box: identity of the box; no secrets.
        soft: whether there are probabilities besides ids.
    """

    format: str
    version: int
    classes: list[str]
    colors: list[tuple[int, int, int]]
    box: dict[str, Any]
    soft: bool
    images: list[AnsweredImage]


_TABLE = TypeAdapter(AnswerTable)


class AnswerWriter:
    """Writes answers into a new folder, which cannot be read until ``finish``."""

    def __init__(self, folder: Path, space: LabelSpace, box: dict[str, Any]) -> None:
        """Start writing.

        Args:
            space: the classes.
            box: identity of the box, copied into the table.
        """
        self._folder, self._space, self._box = folder, space, box
        self._images: dict[str, AnsweredImage] = {}
        self._soft = False

    def add(self, name: str, answer: Answer, data: bytes | None = None) -> None:
        """Add an image's answer.

        Args:
            data: the encoded answer, if available.
        """
        path = _path(self._folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(answer.to_bytes() if data is None else data)
        width, height = answer.size
        self._images[name] = AnsweredImage(name=name, height=height, width=width)
        self._soft = self._soft or bool((answer.probabilities[0] < (answer.classes[0] != IGNORE)).any())

    def finish(self) -> AnswerTable:
        """Write and return the table, which completes the folder."""
        table = AnswerTable(
            format=_FORMAT,
            version=_VERSION,
            classes=list(self._space.names),
            colors=list(self._space.colors),
            box=self._box,
            soft=self._soft,
            images=[self._images[name] for name in sorted(self._images)],
        )
        with atomic_path(self._folder / "table.json") as temporary:
            temporary.write_bytes(_TABLE.dump_json(table, indent=1))
        return table


class AnswerStore:
    """Reads a finished folder of ``AnswerWriter``, one image at a time, from any process."""

    def __init__(self, folder: Path) -> None:
        """Read only the table.

        Raises:
            InputError: the folder is missing, unfinished, or of another version.
        """
        self.folder = folder
        self.table: AnswerTable = read_table(folder, _TABLE, (_FORMAT, _VERSION), "query", "answers")
        self._shapes = {row["name"]: (row["height"], row["width"]) for row in self.table["images"]}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the images, sorted."""
        return tuple(self._shapes)

    @property
    def label_space(self) -> LabelSpace:
        """The classes."""
        return LabelSpace(tuple(self.table["classes"]), tuple(self.table["colors"]))

    def answer(self, name: str) -> Answer:
        """The box's answer for an image.

        Raises:
            InputError: no such image, or its file is damaged.
        """
        if name not in self._shapes:
            raise InputError(f"{self.folder}: no answer for the image {name}; run the query stage again")
        path = _path(self.folder, name)
        answer = Answer.read(path)
        if tuple(answer.classes.shape[1:]) != self._shapes[name]:
            raise damaged(path, "query")
        return answer


def _path(folder: Path, name: str) -> Path:
    return folder / "answers" / f"{name}{SUFFIX}"


@dataclass(frozen=True)
class StoredAnswers:
    """Loads a black box's answer for an image; a class so that it can be pickled, like ``FolderLabels``."""

    store: AnswerStore
    soft: bool

    def __call__(self, sample: Sample) -> Labels:
        answer = self.store.answer(sample.name)
        if not self.soft:
            return Labels(answer.classes[0])
        return Labels(answer.classes[0], classes=answer.classes, probabilities=answer.probabilities)
