"""Negative pseudo labels: classes that are absent from a pixel (Eq. 6)."""

from torch import Tensor


def negative_labels(
    probabilities: Tensor, threshold: float, positives: Tensor | None = None, *, cap: bool = True
) -> Tensor:
    """Select the improbable classes of each pixel (Eq. 6).

    Args:
        probabilities: softmax outputs, (N, C, H, W), any float dtype; compared in float32.
        threshold: lambda_neg, a probability, 0-1.
        positives: the most probable class of each pixel, (N, H, W), int64, if already computed.
        cap: limit the threshold to 1/C.

    Returns:
        True where a class is absent, (N, C, H, W), bool.

    Paper: the threshold as given, ``cap=False``; Figure 6 goes to .2. Ours: at most 1/C, since Eq. 6 alone can mark
    every class of an uncertain pixel as absent, with 21 or more classes at the paper's threshold of .05. Ours: with and
    without the cap, the most probable class is never absent.
    """
    probabilities = probabilities.float()
    absent = probabilities < (min(threshold, 1 / probabilities.shape[1]) if cap else threshold)
    if positives is None:
        positives = probabilities.max(1).indices
    # With the cap, the maximum can only be below the threshold by rounding errors.
    return absent.scatter_(1, positives.unsqueeze(1), False)
