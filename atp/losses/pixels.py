"""Helpers of all losses: masked means and floating-point precision."""

import torch
from torch import Tensor

NO_LABEL = 255
"""Label id of pixels without a label; repeats ``atp.data.labels.IGNORE``, since losses only import torch."""


def in_full_precision(values: Tensor) -> Tensor:
    """Convert float16 and bfloat16 to float32, needed to sum over a million pixels; keep float32 and float64."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def mean_where(values: Tensor, counted: Tensor) -> Tensor:
    """Mean of selected values.

    Args:
        values: any shape.
        counted: mask of the values to average, bool, same shape.

    Returns:
        Scalar; 0 with zero gradient if the mask is empty.
    """
    return values.where(counted, 0).sum() / counted.sum().clamp_min(1)
