"""Label-free verdict on a model relative to the source model: improved, unclear or collapsed.

The verdict uses a few rules instead of a score; each describes a property observed only in collapsed or only in
improved models. They were fitted on the streets runs of ``benchmarks/evidence.py``; docs/explanation/evidence.md has
the measurements, the accuracy there and on CamVid, and the cases that no rule detects.
"""

import math
from dataclasses import dataclass

from atp.evaluation.evidence.record import Figures, Verdict


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of the verdict, relative to the source model.

    Attributes:
        divergence: divergence of the class marginal in nats above which a model has collapsed, unless its agreement
            across scales rises by more than ``rise``.
        fall: decrease of the agreement across scales above which a model has collapsed, or, from the model from which
            its stage started, is worse than that.
        rise: increase of the agreement across scales above which a model has improved.
        few: share of the classes; if the source model's effective number of classes is lower, its marginal is ignored.
    """

    divergence: float = 0.45
    fall: float = 0.03
    rise: float = 0.03
    few: float = 0.2


THRESHOLDS = Thresholds()


def judge(source: Figures, after: Figures, num_classes: int, at: Thresholds = THRESHOLDS) -> tuple[Verdict, str]:
    """Give the verdict on a model and the reason in one sentence.

    Args:
        source, after: indicators of the source model and of the model.
        num_classes: C.
    """
    if not math.isfinite(after["marginal_kl"]):
        return "collapsed", "its probabilities are not finite: its weights contain NaN or infinity"
    broken = source["classes"] < at.few * num_classes
    doubt = (
        f"; the source model predicts effectively only {source['classes']:.1f} classes: check its normalisation, "
        "channel order and classes"
        if broken
        else ""
    )
    far = after["marginal_kl"] > at.divergence and not broken
    rise = after["scale_iou"] - source["scale_iou"]
    told = f"than the source model's (class-IoU {source['scale_iou']:.2f} to {after['scale_iou']:.2f})"
    shares = f"its class shares are far from the source model's (KL {after['marginal_kl']:.2f} nats)"
    if rise < -at.fall:
        return "collapsed", f"its agreement across scales is lower {told}{doubt}"
    if far and rise <= at.rise:
        return "collapsed", f"{shares}, and its agreement across scales is not clearly higher {told}"
    if far:
        return "unclear", f"its agreement across scales is higher {told}, but {shares}"
    if rise > at.rise:
        return "improved", f"its agreement across scales is higher {told}{doubt}"
    return "unclear", f"its agreement across scales is not clearly higher or lower {told}{doubt}"


def worse(before: Figures, after: Figures, at: Thresholds = THRESHOLDS) -> str:
    """Why a model is judged worse than the one from which its stage started; empty if it is not.

    Args:
        before, after: indicators of the model from which the stage started and of its own.
    """
    if before["scale_iou"] - after["scale_iou"] <= at.fall:
        return ""
    return (
        "its agreement across scales is lower than that of the model from which the stage started "
        f"(class-IoU {before['scale_iou']:.2f} to {after['scale_iou']:.2f})"
    )
