"""The word on models as they were measured, on both sides of every rule."""

import pytest

from atp.evaluation.evidence.record import Figures
from atp.evaluation.evidence.verdict import THRESHOLDS, judge, worse

SOURCE: Figures = {"scale_iou": 0.45, "marginal_kl": 0.0, "classes": 6.0}


def said(scale_iou: float, marginal_kl: float, source: Figures = SOURCE) -> tuple[str, str]:
    return judge(source, {"scale_iou": scale_iou, "marginal_kl": marginal_kl, "classes": 6.0}, 16)


@pytest.mark.parametrize(
    ("scale_iou", "marginal_kl", "expected"),
    [
        (0.60, 0.12, "improved"),
        (0.46, 0.12, "unclear"),
        (0.45, 0.0, "unclear"),
        (0.40, 0.12, "collapsed"),
        (0.46, 0.80, "collapsed"),
        # Two signs against each other: diversity at a hundred times its weight, or a source model that was wrong.
        (0.54, 0.80, "unclear"),
    ],
)
def test_verdicts(scale_iou: float, marginal_kl: float, expected: str) -> None:
    assert said(scale_iou, marginal_kl)[0] == expected


def test_what_is_no_number_has_collapsed() -> None:
    verdict, why = said(0.45, float("nan"))
    assert verdict == "collapsed"
    assert "NaN" in why


def test_the_reason_has_the_figures() -> None:
    assert "0.45 to 0.60" in said(0.60, 0.1)[1]
    assert "KL 0.80" in said(0.60, 0.8)[1]


def test_a_broken_source_model_is_no_measure_of_class_shares() -> None:
    broken = {**SOURCE, "scale_iou": 0.15, "classes": 2.0}
    verdict, why = said(0.58, 1.2, broken)
    assert verdict == "improved"
    assert "the source model predicts effectively only 2.0 classes: check its normalisation" in why
    assert said(0.1, 1.2, broken)[0] == "collapsed"


def test_what_does_not_change_is_unclear_at_any_number_of_classes() -> None:
    for classes in (2, 3, 19, 150):
        same = {"scale_iou": 0.5, "marginal_kl": 0.0, "classes": classes / 3}
        assert judge(same, same, classes)[0] == "unclear"


def test_thresholds_are_no_hair() -> None:
    at = THRESHOLDS
    assert said(0.45 + at.rise - 1e-6, 0.0)[0] == "unclear"
    assert said(0.45 + at.rise + 1e-6, at.divergence - 1e-6)[0] == "improved"
    assert said(0.45 + at.rise + 1e-6, at.divergence + 1e-6)[0] == "unclear"
    assert said(0.45 + at.rise - 1e-6, at.divergence + 1e-6)[0] == "collapsed"
    assert said(0.45 - at.fall + 1e-6, 0.0)[0] == "unclear"
    assert said(0.45 - at.fall - 1e-6, 0.0)[0] == "collapsed"


def test_worse_than_the_model_before_is_what_falls_clearly() -> None:
    before: Figures = {"scale_iou": 0.63}
    assert not worse(before, {"scale_iou": 0.63 - THRESHOLDS.fall + 1e-6})
    assert "(class-IoU 0.63 to 0.55)" in worse(before, {"scale_iou": 0.55})
