"""MaxSquare: the maximum squares loss with class balancing in each image.

Chen, Xue, Cai: Domain Adaptation for Semantic Segmentation with Maximum Squares Loss (2019).
"""

from torch import Tensor, nn

from atp.data.loading import Batch, TrainingImages
from atp.losses.pixels import in_full_precision, mean_where
from atp.method.choice import BaselineSettings
from atp.models.network import SegmentationNetwork
from atp.settings import NonNegative, Share
from atp.training.loop import History, Training
from atp.training.run import Run


class Settings(BaselineSettings):
    """Paper: SGD at 2.5e-4, as in ATP's align.

    Attributes:
        balance: strength of class balancing; 0 is the plain loss. Paper: .2.
        weight: weight of the loss. Paper: .1, with a source loss of weight 1.
    """

    weight: NonNegative = 0.1
    balance: Share = 0.2

    title = "MaxSquare"

    @classmethod
    def strengths(cls) -> tuple[dict[str, float], ...]:
        """Other weights: the published one is small relative to a source loss, and trains slowly without it."""
        return ({"weight": 0.03}, {"weight": 0.3}, {"weight": 1.0})


def align(network: SegmentationNetwork, images: TrainingImages, settings: Settings, run: Run) -> History:
    """Train the whole network with the maximum squares loss.

    Paper: together with the source domain's cross-entropy. Ours: without it, since source data is not available; the
    published weight then only slows training.
    """

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        squares = max_square_loss(model(batch.strong), batch.valid, balance=settings.balance)
        return {"loss": settings.weight * squares, "squares": squares}

    return Training(network, settings, images, run).run(objective)


def max_square_loss(logits: Tensor, valid: Tensor, *, balance: float = 0.2) -> Tensor:
    """Maximum squares loss, which makes predictions certain, with more weight for an image's rare classes.

    Chen, Xue, Cai: Domain Adaptation for Semantic Segmentation with Maximum Squares Loss (2019): the plain loss,
    -1/(2N) sum p^2, and its image-wise class-balanced form, in which 1/N becomes 1 / (N_c^balance * N^(1 - balance)),
    where N_c is the number of the image's pixels with the same most probable class as the pixel.

    Args:
        logits: (N, C, H, W), any float dtype; computed in at least float32.
        valid: False at padding, (N, H, W), bool.
        balance: in [0, 1]; 0 is the plain loss, 1 gives all classes of an image equal weight. Paper: .2.

    Returns:
        Scalar in [-C^balance / 2, 0], dimensionless, mean over images with valid pixels; with balance 0, -1/2 if all
        pixels are certain and -1/(2C) if all are uniform; 0 if no pixel is valid.

    Ours: only valid pixels count. The authors' code also divides by C and omits 1/2 in the balanced form, which only
    changes the balance with other losses.
    """
    p = in_full_precision(logits).softmax(1)
    certainty = (p**2).sum(1)  # (N, H, W)
    ids = p.detach().argmax(1).flatten(1)
    counted = valid.flatten(1).to(p.dtype)
    pixels = p.new_zeros(p.shape[:2]).scatter_add_(1, ids, counted)  # (N, C), integers, so order does not matter
    total = counted.sum(1, keepdim=True).clamp_min(1)
    weight = pixels.clamp_min(1).gather(1, ids) ** -balance * total ** (balance - 1)
    loss = -0.5 * (weight * certainty.flatten(1)).where(valid.flatten(1), 0).sum(1)
    return mean_where(loss, valid.flatten(1).any(1))
