"""Class thresholds of positive pseudo labels (Eq. 4), with memory independent of the number of images.

A histogram of confidences per class takes a few megabytes for any number of images. Confidences are counted, stored and
compared as 13-bit codes, so that a pixel keeps its label exactly if the threshold's count included it.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# A trained network's confidences are concentrated just below 1. From 1/2 on, the codes therefore represent the distance
# to 1: its exponent and the first 8 bits of its mantissa, 256 codes for every halving of the distance, down to
# float32's smallest step below 1, 2^-24. Below 1/2, there are 256 codes in even steps.
_MANTISSA_BITS = 8
_LOW_CODES = 1 << _MANTISSA_BITS
_HALVINGS = 23
_DROPPED_BITS = 23 - _MANTISSA_BITS
_HALF_AS_BITS = 126 << 23  # the bits of float32's 0.5 as an integer

CERTAIN = _LOW_CODES + (_HALVINGS << _MANTISSA_BITS) + 1
"""The highest code, 6145, which only the confidence 1.0 has."""


def confidence_codes(confidences: Tensor) -> Tensor:
    """Encode the most probable class's probability, preserving order; any shape and device.

    Args:
        confidences: 0-1, any float dtype, finite.

    Returns:
        0 .. CERTAIN, int16, of the same shape.
    """
    # An average of softmax outputs can exceed 1 by rounding.
    confidences = confidences.float().clamp(max=1)
    low = (confidences * (2 * _LOW_CODES)).int()
    # From 1/2 on, the subtraction is exact, and positive floats have the same order as their bits.
    distance = (1 - confidences).view(torch.int32)
    high = _LOW_CODES + ((_HALF_AS_BITS - distance) >> _DROPPED_BITS)
    return torch.where(confidences < 0.5, low, high.clamp(max=CERTAIN)).short()


def least_confidence(code: int) -> float:
    """The lowest float32 probability with this code or a higher one."""
    if code < _LOW_CODES:
        return code / (2 * _LOW_CODES)
    if code >= CERTAIN:
        return 1.0
    distance = np.uint32(_HALF_AS_BITS - ((code - _LOW_CODES) << _DROPPED_BITS)).view(np.float32)
    # float32 probabilities above 1/2 are multiples of 2^-24.
    return 1 - float(np.floor(distance * np.float32(2**24))) / 2**24


class ConfidenceHistogram:
    """Histograms of the confidences of each class."""

    def __init__(self, num_classes: int, bins: int = CERTAIN + 1) -> None:
        self.counts: NDArray[np.int64] = np.zeros((num_classes, bins), np.int64)

    def update(self, classes: NDArray[np.uint8], codes: NDArray[np.int16]) -> None:
        """Count one image, given its most probable classes and their confidence codes, of the same shape."""
        num_classes, bins = self.counts.shape
        flat = classes.astype(np.int64).ravel() * bins + codes.ravel()
        self.counts += np.bincount(flat, minlength=num_classes * bins).reshape(num_classes, bins)

    def add(self, other: "ConfidenceHistogram") -> None:
        """Add the counts of another histogram."""
        self.counts += other.counts

    def thresholds(self, keep_ratio: float) -> NDArray[np.int64]:
        """Minimum codes of labels that are kept, (C,): lambda_c, the (1 - K) quantile of the confidences (Eq. 4).

        Args:
            keep_ratio: K, the minimum share of each class's pixels to keep, 0-1.

        Returns:
            The highest codes that keep at least that share; above all codes for a class that was never predicted.

        Ours: a label is kept if its confidence is at LEAST the threshold. With ``>``, a class whose threshold saturates
        at 1.0 would select nothing. The excess over K is less than the bin that contains the threshold.
        """
        kept = self.counts[:, ::-1].cumsum(1)[:, ::-1]
        pixels = kept[:, :1]
        highest = (kept >= keep_ratio * pixels).sum(1) - 1
        thresholds: NDArray[np.int64] = np.where(pixels[:, 0] > 0, highest, self.counts.shape[1])
        return thresholds

    def at_least(self, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Count each class's pixels with its code in ``codes``, (C,), or a higher one."""
        above: NDArray[np.bool_] = np.arange(self.counts.shape[1]) >= codes[:, None]
        counts: NDArray[np.int64] = self.counts.sum(1, where=above)
        return counts
