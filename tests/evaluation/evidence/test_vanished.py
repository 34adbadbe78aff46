"""Classes that a model has almost ceased to predict, on shares that were measured."""

from pathlib import Path

import pytest

from atp.evaluation.evidence.record import Evidence, write_evidence
from atp.evaluation.evidence.vanished import LIMITS, MOST_TOLD, vanished, warning, warnings

# A black box's propagate on streets, whose sky fell from 29.8 to 3.0 % IoU, fence from 7.4 to 0, truck from 8.2 to 2.6.
LOST = {"road": (0.3407, 0.2961), "fence": (0.0075, 0.0), "sky": (0.0358, 0.0049), "truck": (0.0097, 0.0011)}
# White boxes' on streets: the source model saw poles everywhere, and their IoU rose from 6.5 to 13.4.
GOOD = {"pole": (0.1616, 0.022), "traffic sign": (0.0281, 0.0201), "fence": (0.0055, 0.0231), "car": (0.0, 0.0)}


def shares(pairs: dict[str, tuple[float, float]]) -> dict[str, dict[str, float]]:
    return {kind: {name: pair[side] for name, pair in pairs.items()} for side, kind in enumerate(("source", "after"))}


def test_lost_classes_are_named_and_those_that_the_source_saw_everywhere_are_not() -> None:
    assert warning(shares(LOST)) == (
        "classes that almost vanished: sky 3.6 % -> 0.5 %, truck 1.0 % -> 0.1 %, fence 0.8 % -> 0.0 %"
    )
    assert warning(shares(GOOD)) == ""


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        (0.01, LIMITS.ratio * 0.01 - 1e-6, True),
        (0.01, LIMITS.ratio * 0.01 + 1e-6, False),
        (0.2, LIMITS.left - 1e-6, True),
        (0.2, LIMITS.left + 1e-6, False),
        (LIMITS.least + 1e-6, 0.0, True),
        (LIMITS.least - 1e-6, 0.0, False),
    ],
)
def test_both_sides_of_every_limit(before: float, after: float, named: bool) -> None:
    assert bool(vanished(shares({"sky": (before, after)}))) == named


def test_of_very_many_the_greatest_are_told() -> None:
    line = warning(shares({f"class {index}": ((index + 1) / 1000, 0.0) for index in range(MOST_TOLD + 3)}))
    assert line.endswith(", 3 more")
    assert line.count("->") == MOST_TOLD
    assert line.startswith(f"classes that almost vanished: class {MOST_TOLD + 2} ")


def test_a_run_has_a_line_for_each_model_that_lost_one(tmp_path: Path) -> None:
    evidence = Evidence(images=1, verdict="improved", why="", reverted=False, source={}, before={}, after={})
    for name, pairs in {"align": GOOD, "teach/r01": LOST, "propagate": LOST}.items():
        (tmp_path / name).mkdir(parents=True)
        write_evidence(tmp_path / name, evidence, shares(pairs))
    (tmp_path / "propagate/shares.json").unlink()  # of an earlier version
    assert warnings(tmp_path, ["r01"]) == {"teach": warning(shares(LOST))}
