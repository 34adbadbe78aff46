"""Negative pseudo labels: the classes that a pixel does not show (Eq. 6)."""

from torch import Tensor


def negative_labels(probabilities: Tensor, threshold: float, positives: Tensor | None = None) -> Tensor:
    """Mark the classes that are improbable at each pixel (Eq. 6).

    Args:
        probabilities: softmax outputs, (N, C, H, W), any float dtype; compared in float32.
        threshold: lambda_neg, a probability, 0-1.
        positives: most probable class of each pixel, (N, H, W), int64, where the caller has it already.

    Returns:
        True where a class is absent, (N, C, H, W), bool.

    Ours: the threshold is at most 1/C and the most probable class is never absent. Eq. 6 alone, from 21 classes on
    with the paper's threshold of .05, can call every class of an undecided pixel absent, the most probable one too. The
    paper's Figure 6 goes to .2; thresholds above 1/C are all 1/C here.
    """
    probabilities = probabilities.float()
    absent = probabilities < min(threshold, 1 / probabilities.shape[1])
    if positives is None:
        positives = probabilities.max(1).indices
    # Below 1/C the maximum is only by rounding; this makes the promise hold to the last bit.
    return absent.scatter_(1, positives.unsqueeze(1), False)
