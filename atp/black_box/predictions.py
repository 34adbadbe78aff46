"""Validation of a box's predictions: arrays become an ``Answer`` in the box's own classes, or an error.

Predictions are untrusted: type, shape, ids, finiteness and sums are checked first.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from atp.black_box.answers import Answer
from atp.data.labels import IGNORE

TOLERANCE = 0.02
"""Tolerance of a pixel's sum of probabilities around 1; half precision stays within it."""

_HALF_STEP = 0.5 / 255
"""Additional tolerance per class for rounding to 8 bits."""

Size = tuple[int, int]


class NoAnswerError(Exception):
    """A box gave no valid answer for an image; the message is one sentence.

    Attributes:
        again: whether a retry may succeed.
        down: whether the box itself fails, rather than this image.
        after_s: seconds to wait, as requested by the box.
    """

    def __init__(self, reason: str, *, again: bool = True, down: bool = False, after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.again, self.down, self.after_s = again, down, after_s


class WrongAnswerError(NoAnswerError):
    """The answer has the wrong type, size or content."""


@dataclass(frozen=True)
class Expected:
    """Requirements on an answer.

    Attributes:
        num_classes: C, the box's number of classes.
        sizes: allowed (width, height).
        keep: number of classes to keep per pixel.
    """

    num_classes: int
    sizes: tuple[Size, ...]
    keep: int

    def check_shape(self, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        """Check dtype and shape of ids or probabilities before the array is allocated."""
        if shape[-2:] not in [(height, width) for width, height in self.sizes]:
            raise WrongAnswerError(f"the answer has the shape {shape}; it must end with {self._shapes()}")
        if len(shape) == 2:
            if dtype.kind not in "iu":
                raise WrongAnswerError(f"the answer is {dtype} {shape}; ids must be whole numbers")
        elif len(shape) != 3 or shape[0] != self.num_classes:
            raise WrongAnswerError(f"the answer has the shape {shape}; its first axis must be {self.num_classes}")
        else:
            self._check_shares(dtype)

    def check_top(self, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        """The same check for an array of a top-k answer, ``classes`` or ``probabilities``."""
        if len(shape) != 3 or shape[-2:] not in [(height, width) for width, height in self.sizes]:
            raise WrongAnswerError(f"{name} has the shape {shape}; it must be (k, H, W) and end with {self._shapes()}")
        if not 1 <= shape[0] <= self.num_classes:
            raise WrongAnswerError(f"{name} has {shape[0]} classes per pixel; there are {self.num_classes}")
        if name == "probabilities":
            self._check_shares(dtype)
        elif dtype.kind not in "iu":
            raise WrongAnswerError(f"{name} is {dtype}; ids must be whole numbers")

    def answer(self, array: NDArray[np.generic]) -> Answer:
        """Make an answer from ids (H, W), integers, 255 = none; or probabilities (C, H, W), float or uint8 / 255.

        Raises:
            WrongAnswerError: for any other array.
        """
        self.check_shape(array.dtype, array.shape)
        if array.ndim == 2:
            return Answer.hard(torch.from_numpy(self._ids(array)))
        shares = self._shares(array)
        totals = shares.sum(0)
        tolerance = self._tolerance(array, self.num_classes)
        worst = np.abs(totals - 1).max()
        if worst > tolerance:
            total = totals.ravel()[np.abs(totals - 1).argmax()]
            raise WrongAnswerError(
                f"probabilities of a pixel add up to {total:.3g}, not 1; are these scores before the softmax?"
            )
        return Answer.of(torch.from_numpy(shares / totals), self.keep)

    def top(self, classes: NDArray[np.generic], probabilities: NDArray[np.generic]) -> Answer:
        """Make an answer from the k most probable classes, (k, H, W), in any order, and their probabilities.

        A class may be 255 if its probability is 0.

        Raises:
            WrongAnswerError: another shape, type or range; a class named twice; sums above 1.
        """
        self.check_top("classes", classes.dtype, classes.shape)
        self.check_top("probabilities", probabilities.dtype, probabilities.shape)
        if classes.shape != probabilities.shape:
            raise WrongAnswerError(f"classes has the shape {classes.shape}, but probabilities {probabilities.shape}")
        ids, shares = self._ids(classes), self._shares(probabilities)
        if ((ids == IGNORE) & (shares > 0)).any():
            raise WrongAnswerError(f"class {IGNORE}, which means none, has a probability")
        ids[shares == 0] = IGNORE
        ordered = np.sort(ids, axis=0)
        if ((ordered[1:] == ordered[:-1]) & (ordered[1:] != IGNORE)).any():
            raise WrongAnswerError("a pixel has the same class twice")
        totals = shares.sum(0)
        if totals.max() > 1 + self._tolerance(probabilities, len(ids)):
            raise WrongAnswerError(f"probabilities of a pixel add up to {totals.max():.3g}, more than 1")
        shares /= np.maximum(totals, 1)
        order = np.argsort(-shares, axis=0, kind="stable")[: self.keep]
        kept = (np.take_along_axis(values, order, axis=0) for values in (ids, shares))
        return Answer(*(torch.from_numpy(values) for values in kept))

    def _ids(self, array: NDArray[np.generic]) -> NDArray[np.uint8]:
        least, most = array.min(), array.max()
        wrong = [value for value in (least, most) if not 0 <= value < self.num_classes and value != IGNORE]
        if not wrong and most == IGNORE:
            others = array[array != IGNORE]
            wrong = [others.max()] if others.size and others.max() >= self.num_classes else []
        if wrong:
            raise WrongAnswerError(
                f"class {wrong[0]} in the answer; there are 0..{self.num_classes - 1}, and 255 = none"
            )
        return array.astype(np.uint8)

    def _shares(self, array: NDArray[np.generic]) -> NDArray[np.float32]:
        with np.errstate(over="ignore"):
            shares: NDArray[np.float32] = array.astype(np.float32)
        if array.dtype == np.uint8:
            return shares / np.float32(255)
        if not np.isfinite(shares).all():
            raise WrongAnswerError("some probabilities are not finite")
        if shares.min() < -1e-6:
            raise WrongAnswerError(f"a probability of {shares.min():.3g}; are these scores before the softmax?")
        return shares.clip(min=0)

    def _check_shares(self, dtype: np.dtype) -> None:
        if dtype.kind != "f" and dtype != np.uint8:
            raise WrongAnswerError(f"probabilities are {dtype}; they must be float, or uint8 in steps of 1/255")

    def _tolerance(self, array: NDArray[np.generic], summands: int) -> float:
        return TOLERANCE + (summands * _HALF_STEP if array.dtype == np.uint8 else 0)

    def _shapes(self) -> str:
        return " or ".join(f"{height}, {width}" for width, height in self.sizes)


def resized(answer: Answer, size: Size, num_classes: int, keep: int) -> Answer:
    """Resize an answer to (width, height): ids by nearest neighbour, probabilities bilinearly."""
    if answer.size == size:
        return answer
    if _is_hard(answer):
        ids = Image.fromarray(answer.classes[0].numpy()).resize(size, Image.Resampling.NEAREST)
        return Answer.hard(torch.from_numpy(np.array(ids)))
    dense = answer.dense(num_classes)[None]
    dense = F.interpolate(dense, (size[1], size[0]), mode="bilinear", antialias=True)[0].clamp_(min=0)
    return Answer.of(_scaled(dense, dense.sum(0) >= 0.5), keep)


def mapped(answer: Answer, ids: tuple[int, ...], num_classes: int, keep: int) -> Answer:
    """Map an answer to other classes.

    Probabilities of merged classes are summed; those of ignored classes are dropped and the rest is renormalised. A
    pixel whose most probable class is ignored has no answer.

    Args:
        ids: new id of each class of the answer, 255 = ignored.
        num_classes: number of new classes.
    """
    table = torch.full((256,), IGNORE, dtype=torch.uint8)
    table[: len(ids)] = torch.tensor(ids, dtype=torch.uint8)
    first = table[answer.classes[0].long()]
    if _is_hard(answer):
        return Answer.hard(first)
    dense = answer.dense(len(ids))
    # One more plane for ignored classes.
    index = torch.tensor([num_classes if target == IGNORE else target for target in ids])
    sums = torch.zeros((num_classes + 1, *dense.shape[1:])).index_add_(0, index, dense)[:num_classes]
    return Answer.of(_scaled(sums, first != IGNORE), keep)


def _scaled(probabilities: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Normalise each pixel's sum to 1, or 0 without an answer."""
    return probabilities * valid / probabilities.sum(0).clamp_(min=torch.finfo(torch.float32).tiny)


def _is_hard(answer: Answer) -> bool:
    return len(answer.classes) == 1 and bool((answer.probabilities[0] == (answer.classes[0] != IGNORE)).all())
