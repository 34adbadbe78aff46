"""A teacher, the moving average of the network, that labels the images without colour augmentation."""

import torch
from torch import Tensor

from atp.data.loading import Batch
from atp.losses.pixels import NO_LABEL
from atp.models.network import SegmentationNetwork
from atp.training.ema import AveragedNetwork
from atp.training.runtime import Runtime


@torch.no_grad()
def teacher_probabilities(teacher: AveragedNetwork, batch: Batch, runtime: Runtime) -> Tensor:
    """The teacher's prediction, float32, (N, C, H, W), in evaluation mode."""
    # Only the main process's BatchNorm statistics are saved, and a resumed training must have the same teachers.
    runtime.share_buffers(teacher.network)
    probabilities: Tensor = teacher.network(batch.weak).float().softmax(1)
    return probabilities


def most_probable(probabilities: Tensor, valid: Tensor) -> Tensor:
    """The most probable classes of (N, C, H, W), 255 at padding, (N, H, W), int64."""
    return probabilities.argmax(1).masked_fill(~valid, NO_LABEL)


def hand_over(teacher: AveragedNetwork, network: SegmentationNetwork) -> None:
    """Make the teacher the adapted model."""
    network.load_state_dict(teacher.network.state_dict())
