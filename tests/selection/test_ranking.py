"""The order without labels, and the oracle's apart from it."""

from dataclasses import replace
from typing import Any

import pytest

from atp.errors import InputError
from atp.evaluation.evidence.record import INDICATORS, Evidence, Verdict
from atp.selection.ranking import choose, to_json
from atp.selection.repository import Experiment, valid_indicator, valid_stage
from atp.selection.table import ORACLE, choice_table


def run(
    name: str, iou: float | None, miou: float | None = None, verdict: Verdict = "improved", reverted: bool = False
) -> Experiment:
    after = {"entropy": 0.5 if iou is None else 1 - iou} | ({} if iou is None else {"scale_iou": iou})
    evidence = Evidence(
        images=4, verdict=verdict, why="", reverted=reverted, source={"scale_iou": 0.3}, before=after, after=after
    )
    return Experiment(name, "finished", {"teach": {"lr": iou}}, evidence, miou)


RUNS = [
    run("workspace", 0.5, 40.0),
    run("good", 0.7, 55.0),
    run("better", 0.6, 60.0),
    run("broken", 0.99, 5.0, "collapsed"),
    run("unmeasured", None, 30.0),
]


def names(places: Any) -> list[str]:
    return [place.run.name for place in places]


def test_collapsed_runs_come_last_whatever_their_figure() -> None:
    choice = choose(RUNS, "scale_iou", "propagate")
    assert names(choice.places) == ["good", "better", "workspace", "unmeasured", "broken"]
    assert choice.picked == RUNS[1]
    assert choice.places[3].rank is None


def test_a_reverted_run_counts_as_the_model_that_it_handed_on() -> None:
    back = run("back", 0.65, verdict="collapsed", reverted=True)
    assert names(choose([*RUNS, back], "scale_iou", "propagate").places)[:3] == ["good", "back", "better"]


def test_an_indicator_that_falls_is_ranked_downwards() -> None:
    assert names(choose(RUNS, "entropy", "propagate").places)[0] == "good"


def test_equal_figures_share_a_rank_and_what_lies_here_comes_first() -> None:
    choice = choose([run("b", 0.5), run("a", 0.5), run("workspace", 0.5), run("c", 0.4)], "scale_iou", "propagate")
    assert [(place.run.name, place.rank) for place in choice.places] == [("workspace", 1), ("a", 1), ("b", 1), ("c", 4)]
    assert "is the current workspace" in choice_table(choice, "propagate")


def test_the_oracle_stands_apart_and_says_what_the_choice_costs() -> None:
    choice = choose(RUNS, "scale_iou", "propagate")
    assert names(choice.oracle)[:2] == ["better", "good"]
    ranking, oracle = choice_table(choice, "propagate").split(ORACLE)
    assert "mIoU" not in ranking
    assert "costs 5.00 points" in oracle
    assert to_json(choice, "propagate")["oracle"]["cost"] == pytest.approx(5)


def test_labels_do_not_move_the_choice() -> None:
    without = [Experiment(r.name, r.state, r.params, r.evidence) for r in RUNS]
    choice = choose(without, "scale_iou", "propagate")
    assert names(choice.places) == names(choose(RUNS, "scale_iou", "propagate").places)
    assert not choice.oracle
    assert choice.cost is None
    assert "oracle" not in choice_table(choice, "propagate")
    assert to_json(choice, "propagate")["oracle"] is None


def test_nothing_is_picked_where_all_collapsed() -> None:
    choice = choose([run("a", 0.9, verdict="collapsed")], "scale_iou", "propagate")
    assert choice.picked is None
    assert "all runs collapsed" in choice_table(choice, "propagate")


def test_failed_queued_and_unmeasured_runs_are_told() -> None:
    others = [
        Experiment("x", "failed", {}, why="propagate: collapsed"),
        Experiment("y", "queued", {}),
        Experiment("z", "finished", {}),
    ]
    text = choice_table(choose([*RUNS, *others], "scale_iou", "propagate"), "propagate")
    assert "x: failed: propagate: collapsed" in text
    assert "y: queued" in text
    assert "z: not ranked: no evidence" in text


def test_what_differs_stands_beside_each_run() -> None:
    (row,) = [row for row in to_json(choose(RUNS, "entropy", "align"), "align")["runs"] if row["name"] == "good"]
    assert row["params"] == {"teach.lr": "0.7"}


@pytest.mark.parametrize("by", ["miou", "augmentation"])
def test_an_indicator_that_is_not_there_is_refused(by: str) -> None:
    with pytest.raises(InputError, match="choose from entropy, scale_iou"):
        choose(RUNS, by, "propagate")


def test_every_indicator_can_be_asked_for_and_no_other() -> None:
    assert [valid_indicator(by) for by in INDICATORS] == list(INDICATORS)
    with pytest.raises(
        InputError, match=r"--by density_iou: no such indicator; is it .*choose from augmentation_iou, "
    ):
        valid_indicator("density_iou")


def test_a_figure_of_another_model_is_not_shown_and_the_reason_is() -> None:
    another = replace(run("workspace", 0.5), unmatched="runs/evaluate is of another model")
    choice = choose([another, RUNS[1]], "scale_iou", "align")
    assert names(choice.oracle) == ["good"]
    assert "workspace: no mIoU: runs/evaluate is of another model" in choice_table(choice, "align")
    assert "good: no mIoU" not in choice_table(choice, "align")
    assert [row["unmatched"] for row in to_json(choice, "align")["runs"]] == ["", "runs/evaluate is of another model"]


def test_classes_that_almost_vanished_stand_below_the_ranking() -> None:
    lost = replace(run("lost", 0.8), vanished="classes that almost vanished: sky 3.6 % -> 0.5 %")
    choice = choose([lost, RUNS[1]], "scale_iou", "propagate")
    assert choice.picked == lost, "a warning and no verdict"
    text = choice_table(choice, "propagate")
    assert "\n\nlost: classes that almost vanished: sky 3.6 % -> 0.5 %\n\n" in text
    assert "good: classes" not in text
    assert [bool(row["vanished"]) for row in to_json(choice, "propagate")["runs"]] == [True, False]


def test_a_stage_without_evidence_is_refused() -> None:
    with pytest.raises(InputError, match="not a stage with evidence"):
        valid_stage("dump@r01")
