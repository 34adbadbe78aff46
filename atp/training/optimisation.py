"""SGD with two learning rates and the "poly" schedule (Sec. 4.2)."""

from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from atp.models.network import SegmentationNetwork, parameter_groups
from atp.training.settings import Optimisation


def build_optimizer(network: SegmentationNetwork, settings: Optimisation) -> SGD:
    """Build SGD for all unfrozen parameters, with the classifier's learning rate times ``classifier_lr_factor``."""
    groups = parameter_groups(network, settings.lr, settings.classifier_lr_factor)
    return SGD(groups, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay)


def build_schedule(optimizer: SGD, settings: Optimisation, steps: int, before: int = 0) -> LambdaLR:
    """lr * (1 - step / steps) ** power, after a linear warm-up.

    Args:
        steps: of the whole schedule.
        before: its steps that earlier trainings have done.
    """

    def factor(step: int) -> float:
        step += before
        warmup = min(1.0, (step + 1) / (settings.warmup_steps + 1))
        return warmup * float(max(0.0, 1 - step / steps) ** settings.power)

    return LambdaLR(optimizer, factor)
