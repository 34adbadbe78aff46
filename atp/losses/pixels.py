"""What all losses share: which pixels count, and in which precision."""

import torch
from torch import Tensor

NO_LABEL = 255
"""Label id of pixels without a label; ``atp.data.labels.IGNORE`` again, since losses import torch alone."""


def in_full_precision(values: Tensor) -> Tensor:
    """float16 and bfloat16 as float32, which sums over a million pixels need; float32 and float64 as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def mean_where(values: Tensor, counted: Tensor) -> Tensor:
    """Mean of the values that count.

    Args:
        values: any shape.
        counted: bool, same shape.

    Returns:
        Scalar; 0, with a gradient of zeros, where nothing counts.
    """
    return values.where(counted, 0).sum() / counted.sum().clamp_min(1)
