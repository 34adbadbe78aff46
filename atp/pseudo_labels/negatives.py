"""Negative pseudo labels: classes that are absent from a pixel (Eq. 6)."""

from torch import Tensor


def negative_labels(probabilities: Tensor, threshold: float, positives: Tensor | None = None) -> Tensor:
    """Select the improbable classes of each pixel (Eq. 6).

    Args:
        probabilities: softmax outputs, (N, C, H, W), any float dtype; compared in float32.
        threshold: lambda_neg, a probability, 0-1.
        positives: the most probable class of each pixel, (N, H, W), int64, if already computed.

    Returns:
        True where a class is absent, (N, C, H, W), bool.

    Ours: the threshold is at most 1/C and the most probable class is never absent. With 21 or more classes and the
    paper's threshold of .05, Eq. 6 alone can mark every class of an uncertain pixel as absent. The paper's Figure 6
    goes to .2; here, thresholds above 1/C act as 1/C.
    """
    probabilities = probabilities.float()
    absent = probabilities < min(threshold, 1 / probabilities.shape[1])
    if positives is None:
        positives = probabilities.max(1).indices
    # The maximum can be below 1/C only by rounding errors; this covers them.
    return absent.scatter_(1, positives.unsqueeze(1), False)
