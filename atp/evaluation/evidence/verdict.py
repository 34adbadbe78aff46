"""One word on a model, without labels: improved, unclear or collapsed, beside the source model.

Few rules, and not a score: each names something that was seen of collapsed or of improved models and not of others.
They were fitted on the streets runs of ``benchmarks/evidence.py``; docs/explanation/evidence.md has the figures, how
often the word was right there and on CamVid, and what no rule here sees.
"""

import math
from dataclasses import dataclass

from atp.evaluation.evidence.record import Figures, Verdict


@dataclass(frozen=True)
class Thresholds:
    """Where the word changes.

    Attributes:
        divergence: of the class marginal from the source model's, nats, from which a model counts as collapsed that
            does not agree with itself more than the source model does.
        fall: of its agreement with itself at other scales, below the source model's, from which it does.
        rise: of that agreement, above the source model's, from which it counts as improved.
        few: share of the classes; a source model that predicts fewer in effect is no measure for marginals.
    """

    divergence: float = 0.45
    fall: float = 0.03
    rise: float = 0.03
    few: float = 0.2


THRESHOLDS = Thresholds()


def judge(source: Figures, after: Figures, num_classes: int, at: Thresholds = THRESHOLDS) -> tuple[Verdict, str]:
    """The verdict on a model and one sentence why.

    Args:
        source, after: indicators of the source model and of the model.
        num_classes: C.
    """
    if not math.isfinite(after["marginal_kl"]):
        return "collapsed", "its probabilities are no numbers: there is NaN or infinity in its weights"
    broken = source["classes"] < at.few * num_classes
    doubt = (
        f"; the source model predicts only {source['classes']:.1f} classes in effect: check its normalisation, channel "
        "order and classes"
        if broken
        else ""
    )
    far = after["marginal_kl"] > at.divergence and not broken
    rise = after["scale_iou"] - source["scale_iou"]
    told = f"as it does at other scales (class-IoU {source['scale_iou']:.2f} to {after['scale_iou']:.2f})"
    shares = f"its class shares are far from the source model's (KL {after['marginal_kl']:.2f} nats)"
    if rise < -at.fall:
        return "collapsed", f"it predicts less often than the source model the same {told}{doubt}"
    if far and rise <= at.rise:
        return "collapsed", f"{shares}, and it predicts no more often than that the same {told}"
    if far:
        return "unclear", f"it predicts more often than the source model the same {told}, but {shares}"
    if rise > at.rise:
        return "improved", f"it predicts more often than the source model the same {told}{doubt}"
    return "unclear", f"it predicts about as often as the source model the same {told}{doubt}"
