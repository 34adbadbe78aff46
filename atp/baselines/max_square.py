"""Maximum squares, class-balanced in each image.

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
    """Paper: SGD at 2.5e-4, as ATP's align.

    Attributes:
        balance: 0 is the plain loss. Paper: .2.
        weight: of the loss. Paper: .1, beside a source loss of weight 1.
    """

    weight: NonNegative = 0.1
    balance: Share = 0.2

    title = "MaxSquare"

    @classmethod
    def strengths(cls) -> tuple[dict[str, float], ...]:
        """Beside a source loss the published weight is small, and slow alone."""
        return ({"weight": 1.0},)


def align(network: SegmentationNetwork, images: TrainingImages, settings: Settings, run: Run) -> History:
    """Train everything on the maximum squares.

    Paper: beside the source domain's cross-entropy. Ours: without it, as there is no source, so that the published
    weight has nothing to balance and only slows the training down.
    """

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        squares = max_square_loss(model(batch.strong), batch.valid, balance=settings.balance)
        return {"loss": settings.weight * squares, "squares": squares}

    return Training(network, settings, images, run).run(objective)


def max_square_loss(logits: Tensor, valid: Tensor, *, balance: float = 0.2) -> Tensor:
    """Make predictions certain, in each image the more so for classes of few pixels.

    Chen, Xue, Cai: Domain Adaptation for Semantic Segmentation with Maximum Squares Loss (2019): the plain loss,
    -1/(2N) sum p^2, and its image-wise class-balanced form, in which 1/N becomes 1 / (N_c^balance * N^(1 - balance)),
    N_c being the pixels of the image whose most probable class is that of the pixel at hand.

    Args:
        logits: class scores, (N, C, H, W), any float dtype; computed in float32 at least.
        valid: False at padding, (N, H, W), bool.
        balance: in [0, 1]; 0 is the plain loss, 1 counts all classes of an image alike. Paper: .2.

    Returns:
        Scalar in [-C^balance / 2, 0], without a unit, mean over the images that have valid pixels; with balance 0 it is
        -1/2 where every pixel is certain and -1/(2C) where every one is uniform; 0 where nothing is valid.

    Ours: valid pixels alone count. Their code divides by C as well and, in the balanced form, leaves 1/2 out, which
    shifts the balance with other losses alone.
    """
    p = in_full_precision(logits).softmax(1)
    certainty = (p**2).sum(1)  # (N, H, W)
    ids = p.detach().argmax(1).flatten(1)
    counted = valid.flatten(1).to(p.dtype)
    pixels = p.new_zeros(p.shape[:2]).scatter_add_(1, ids, counted)  # (N, C), whole numbers: their order is no matter
    total = counted.sum(1, keepdim=True).clamp_min(1)
    weight = pixels.clamp_min(1).gather(1, ids) ** -balance * total ** (balance - 1)
    loss = -0.5 * (weight * certainty.flatten(1)).where(valid.flatten(1), 0).sum(1)
    return mean_where(loss, valid.flatten(1).any(1))
