"""One word on a stage's model, without labels: improved, unclear or collapsed.

Rules, not a score: each names one thing that was seen in collapsed or in improved models and not in the others. What
they were fitted on, and how often they were right elsewhere, is in docs/evidence.md.
"""

from dataclasses import dataclass

from atp.evidence.record import Figures, Verdict


@dataclass(frozen=True)
class Thresholds:
    """Where the verdict changes.

    Attributes:
        lost: classes of the source model that are gone, from which a model counts as collapsed.
        divergence: of the class shares from the source model's, nats, from which it does.
        classes: share of the source model's effective classes below which it does.
        fall: of the agreement under augmentation, below the source model's, from which it does.
        rise: of that agreement, above the source model's, from which a model counts as improved.
    """

    lost: float = 3
    divergence: float = 0.5
    classes: float = 0.5
    fall: float = 0.1
    rise: float = 0.05


THRESHOLDS = Thresholds()


def judge(source: Figures, before: Figures, after: Figures, at: Thresholds = THRESHOLDS) -> tuple[Verdict, str]:
    """The verdict on a model and one sentence why.

    Args:
        source, before, after: indicators of the source model, of the model that the stage began with, of the model it
            made.
    """
    if after["lost"] >= at.lost:
        return "collapsed", f"{after['lost']:.0f} classes that the source model predicts are gone"
    if after["classes"] < at.classes * source["classes"]:
        return (
            "collapsed",
            f"it predicts {after['classes']:.1f} classes in effect where the source model does {source['classes']:.1f}",
        )
    if after["marginal_kl"] > at.divergence:
        return "collapsed", f"its class shares are far from the source model's ({after['marginal_kl']:.2f} nats)"
    rise = after["lasting_iou"] - source["lasting_iou"]
    told = f"{source['lasting_iou']:.2f} to {after['lasting_iou']:.2f}"
    if rise < -at.fall:
        return "collapsed", f"it agrees less with itself on changed images than the source model does ({told})"
    if rise > at.rise:
        return "improved", f"it agrees more with itself on changed images ({told}), and no class is gone"
    return "unclear", f"it agrees with itself on changed images about as much as the source model does ({told})"
