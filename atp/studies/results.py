"""Collects the results of finished experiments for a table."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from atp.selection.repository import Whose, open_repository, read_pictures, read_results
from atp.studies.cells import PIPELINE, RESULT, Plan
from atp.studies.definitions import Row, Table

CELLS = Whose(PIPELINE.name, everything=True)
"""Cells from all commits count, since their names identify their content."""

Metrics = Mapping[str, Any]


@dataclass(frozen=True)
class State:
    """The state of a study's experiments.

    Attributes:
        metrics: metrics of finished experiments, by name.
        missing: the state of the others, by name.
    """

    metrics: Mapping[str, Metrics]
    missing: Mapping[str, str]


@dataclass(frozen=True)
class Value:
    """The result of one row and one seed.

    Attributes:
        seed: the seed.
        miou: percent, over all classes.
        experiment: name of the experiment.
        metrics: all metrics of the experiment.
    """

    seed: int
    miou: float
    experiment: str
    metrics: Metrics


@dataclass(frozen=True)
class Line:
    """A row's results.

    Attributes:
        row: the row.
        values: results of the finished seeds.
        missing: unfinished experiments, and why.
    """

    row: Row
    values: Sequence[Value]
    missing: Mapping[str, str]

    def figures(self, protocol: str = "") -> list[float]:
        """mIoU per seed, by a protocol or over all classes; seeds without any of the classes are left out."""
        found = (value.metrics["protocols"][protocol] if protocol else value.miou for value in self.values)
        return [figure for figure in found if figure is not None]

    def iou(self, name: str) -> list[float]:
        """IoU of a class per seed; empty if the data lack the class, or it is neither labelled nor predicted."""
        found = (value.metrics["iou"].get(name) for value in self.values)
        return [figure for figure in found if figure is not None]

    def mean(self, protocol: str = "") -> float | None:
        figures = self.figures(protocol)
        return mean(figures) if figures else None

    def deviation(self, protocol: str = "") -> float | None:
        figures = self.figures(protocol)
        return stdev(figures) if len(figures) > 1 else None


def collect(plan: Plan) -> State:
    """Collect results from DVC's experiments and its queue."""
    wanted = [cell.name for cell in plan.cells]
    with open_repository() as (repo, prefix):
        finished = CELLS.finished(repo, prefix)
        unfinished = CELLS.unfinished(repo, prefix)
    revisions = {name: finished[name] for name in wanted if name in finished}
    texts = read_results(revisions, Path(RESULT) / "metrics.json")
    missing = {}
    for name in wanted:
        if name in unfinished and name not in finished:
            state, _, why = unfinished[name]
            missing[name] = state + (f": {why}" if why else "")
        elif name not in texts:
            missing[name] = "finished, but not in DVC's cache; run dvc pull" if name in finished else "not started"
    return State({name: json.loads(text) for name, text in texts.items()}, missing)


def read_predictions(line: Line) -> dict[str, bytes]:
    """PNGs of class ids stored by the first experiment of a row, by image."""
    if not line.values:
        return {}
    with open_repository() as (repo, prefix):
        revision = CELLS.finished(repo, prefix)[line.values[0].experiment]
    return read_pictures(revision, Path(RESULT) / "predictions")


def lines(table: Table, plan: Plan, state: State, seeds: Sequence[int]) -> list[Line]:
    """A study's rows, each with one setting, with their results."""
    return [_line(row, plan, state, seeds) for row in table.rows]


def _line(row: Row, plan: Plan, state: State, seeds: Sequence[int]) -> Line:
    values: list[Value] = []
    missing: dict[str, str] = {}
    (setting,) = row.settings
    for seed in seeds:
        name = plan.cell(setting, seed).name
        if name in state.metrics:
            values.append(Value(seed, state.metrics[name]["miou"], name, state.metrics[name]))
        else:
            missing[name] = state.missing[name]
    return Line(row, values, missing)
