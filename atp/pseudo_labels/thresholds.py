"""Class thresholds of positive pseudo labels (Eq. 4), in memory that does not grow with the number of images.

A histogram of confidences for each class takes the same few megabytes for one image and for a whole city. Confidences
are counted, kept on disk and compared as codes of 13 bits, so a pixel keeps its label exactly if the threshold's count
included it.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# A trained network's confidences crowd just below 1. So from 1/2 on it is the distance to 1 that is coded: its exponent
# and the first 8 bits of its mantissa, 256 codes for every halving of the distance down to float32's last step below 1,
# which is 2^-24. Below 1/2 there are 256 codes in even steps.
_MANTISSA_BITS = 8
_LOW_CODES = 1 << _MANTISSA_BITS
_HALVINGS = 23
_DROPPED_BITS = 23 - _MANTISSA_BITS
_HALF_AS_BITS = 126 << 23  # the bits of float32's 0.5, read as an integer

CERTAIN = _LOW_CODES + (_HALVINGS << _MANTISSA_BITS) + 1
"""Code of the confidence 1.0, and of no other: the highest one, 6145."""


def confidence_codes(confidences: Tensor) -> Tensor:
    """Code probabilities of the most probable class so that a higher code means a higher one; any shape and device.

    Args:
        confidences: 0-1, any float dtype, finite.

    Returns:
        0 .. CERTAIN, int16, of the same shape.
    """
    # An average of softmax outputs can exceed 1 by rounding.
    confidences = confidences.float().clamp(max=1)
    low = (confidences * (2 * _LOW_CODES)).int()
    # From 1/2 on the subtraction is exact, and positive floats are ordered as their bits are.
    distance = (1 - confidences).view(torch.int32)
    high = _LOW_CODES + ((_HALF_AS_BITS - distance) >> _DROPPED_BITS)
    return torch.where(confidences < 0.5, low, high.clamp(max=CERTAIN)).short()


def least_confidence(code: int) -> float:
    """The least float32 probability that has this code or a higher one."""
    if code < _LOW_CODES:
        return code / (2 * _LOW_CODES)
    if code >= CERTAIN:
        return 1.0
    distance = np.uint32(_HALF_AS_BITS - ((code - _LOW_CODES) << _DROPPED_BITS)).view(np.float32)
    # float32 probabilities above 1/2 are multiples of 2^-24.
    return 1 - float(np.floor(distance * np.float32(2**24))) / 2**24


class ConfidenceHistogram:
    """Counts of the confidences of each class, image by image."""

    def __init__(self, num_classes: int, bins: int = CERTAIN + 1) -> None:
        self.counts: NDArray[np.int64] = np.zeros((num_classes, bins), np.int64)

    def update(self, classes: NDArray[np.uint8], codes: NDArray[np.int16]) -> None:
        """Count one image: its most probable classes and their confidences' codes, of one shape."""
        num_classes, bins = self.counts.shape
        flat = classes.astype(np.int64).ravel() * bins + codes.ravel()
        self.counts += np.bincount(flat, minlength=num_classes * bins).reshape(num_classes, bins)

    def thresholds(self, keep_ratio: float) -> NDArray[np.int64]:
        """The codes from which on labels are kept, (C,): lambda_c, the (1 - K) quantile of its confidences (Eq. 4).

        Args:
            keep_ratio: K, the least share of each class's pixels to keep, 0-1.

        Returns:
            The highest codes that keep at least that share. A class that was never predicted has one above all codes.

        Ours: a label is kept where its confidence is at LEAST the threshold. With ``>`` a class whose threshold
        saturates at 1.0 would select nothing. Beyond K less is kept than the one bin that the threshold falls into.
        """
        kept = self.counts[:, ::-1].cumsum(1)[:, ::-1]
        pixels = kept[:, :1]
        highest = (kept >= keep_ratio * pixels).sum(1) - 1
        thresholds: NDArray[np.int64] = np.where(pixels[:, 0] > 0, highest, self.counts.shape[1])
        return thresholds
