"""Rank runs by their evidence without labels, kept apart from the ranking by labels."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atp.errors import InputError
from atp.runner.tracking import flatten
from atp.selection.repository import WORKSPACE, Experiment

INDICATOR = "scale_iou"
"""The default indicator: its ranking correlated best with true mIoU in docs/explanation/evidence.md."""

LOWER_IS_BETTER = ("entropy", "marginal_kl")
COLLAPSED = "collapsed"


@dataclass(frozen=True)
class Place:
    """A run in a ranking.

    Attributes:
        rank: from 1, the same for equal values; None if there is no value.
        run: the run.
        value: the value it is ranked by.
    """

    rank: int | None
    run: Experiment
    value: float | None


@dataclass(frozen=True)
class Choice:
    """The runs in order, best first.

    Attributes:
        by: the indicator.
        places: all finished runs with evidence; collapsed ones come last, whatever their value.
        oracle: the same runs by mIoU; empty without labels.
        others: runs that cannot be ranked, and why.
    """

    by: str
    places: list[Place]
    oracle: list[Place]
    others: list[tuple[Experiment, str]]

    @property
    def picked(self) -> Experiment | None:
        """The best run, unless it is collapsed or has no value."""
        best = self.places[0] if self.places else None
        return best.run if best and best.value is not None and verdict(best.run) != COLLAPSED else None

    @property
    def cost(self) -> float | None:
        """Points of mIoU between the best run and the picked one; None without labels."""
        picked = self.picked
        if picked is None or picked.miou is None or not self.oracle or self.oracle[0].value is None:
            return None
        return self.oracle[0].value - picked.miou


def choose(runs: Sequence[Experiment], by: str, stage: str) -> Choice:
    """Order runs by an indicator of a stage's evidence.

    Raises:
        InputError: no run has evidence, or none has that indicator.
    """
    able = [run for run in runs if run.state == "finished" and run.evidence is not None]
    known = list(dict.fromkeys(name for run in able for name in indicators(run)))
    if able and by not in known:
        raise InputError(f"--by {by}: no such indicator in the evidence of {stage}; choose from {', '.join(known)}")
    sign = 1.0 if by in LOWER_IS_BETTER else -1.0
    collapsed = [run for run in able if verdict(run) == COLLAPSED]
    places = _order([run for run in able if run not in collapsed], lambda run: figure(run, by), sign)
    places += _order(collapsed, lambda run: figure(run, by), sign, before=len(places))
    labelled = [run for run in able if run.miou is not None]
    oracle = _order(labelled, lambda run: run.miou, -1.0)
    without = f"no evidence of {stage} in DVC's cache; dvc pull, or run it again"
    others = [(run, run.why or without) for run in runs if run not in able and run.state in ("finished", "failed")]
    others += [(run, "") for run in runs if run.state in ("queued", "running")]
    return Choice(by, places, oracle, others)


def _order(
    runs: Sequence[Experiment], value_of: Callable[[Experiment], float | None], sign: float, before: int = 0
) -> list[Place]:
    """Sort best first, ties by workspace first and then by name; runs without a value come last, unranked."""
    with_figure = [(value, run) for run in runs if (value := value_of(run)) is not None]
    with_figure.sort(key=lambda pair: (sign * pair[0], pair[1].name != WORKSPACE, pair[1].name))
    values = [value for value, _ in with_figure]
    places = [Place(before + values.index(value) + 1, run, value) for value, run in with_figure]
    without = sorted((run for run in runs if value_of(run) is None), key=lambda run: run.name)
    return places + [Place(None, run, None) for run in without]


def indicators(run: Experiment) -> Mapping[str, float]:
    """Indicators of the stage's resulting model."""
    return run.evidence["after"] if run.evidence else {}


def verdict(run: Experiment) -> str:
    """Verdict on the stage's model; ``reverted`` if it collapsed and the previous model was kept."""
    if run.evidence is None:
        return ""
    return "reverted" if run.evidence["reverted"] else run.evidence["verdict"]


def figure(run: Experiment, by: str) -> float | None:
    """An indicator of a run; None if not measured."""
    value = indicators(run).get(by)
    return value if value is not None and math.isfinite(value) else None


def differences(runs: Sequence[Experiment]) -> dict[str, dict[str, str]]:
    """By run, the parameters that differ between runs, as text, without those that do not change a result."""
    flat = {
        run.name: flatten({k: v for k, v in run.params.items() if k not in ("runtime", "register")}) for run in runs
    }
    names = dict.fromkeys(name for params in flat.values() for name in params)
    varied = [name for name in names if len({params.get(name) for params in flat.values()}) > 1]
    return {run: {name: params.get(name, "not given") for name in varied} for run, params in flat.items()}


def to_json(choice: Choice, stage: str) -> dict[str, Any]:
    """The table in machine-readable form."""
    differing = differences([place.run for place in choice.places])
    return {
        "stage": stage,
        "by": choice.by,
        "picked": choice.picked.name if choice.picked else None,
        "runs": [
            {
                "rank": place.rank,
                "name": place.run.name,
                "verdict": verdict(place.run),
                "why": place.run.evidence["why"] if place.run.evidence else "",
                "indicators": dict(indicators(place.run)),
                "params": differing[place.run.name],
                "vanished": place.run.vanished,
                "unmatched": place.run.unmatched,
            }
            for place in choice.places
        ],
        "oracle": {
            "runs": [{"rank": place.rank, "name": place.run.name, "miou": place.value} for place in choice.oracle],
            "cost": choice.cost,
        }
        if choice.oracle
        else None,
        "others": [{"name": run.name, "state": run.state, "why": why} for run, why in choice.others],
    }
