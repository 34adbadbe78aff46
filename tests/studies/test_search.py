"""Searched rows: tried with another seed on the validation images, and chosen by labels or without."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from atp.data.settings import MaybeLabelled
from atp.params import Params, load_params
from atp.selection.grid import Cell
from atp.studies import search as module
from atp.studies.cells import Plan
from atp.studies.definitions import HeldOut, Row, Setting, Table, row
from atp.studies.results import State
from atp.studies.search import SEED, search, searches_tree, told

TRIES = tuple(
    Setting("runs/align", {"align.method": "baselines/tent", "align.baseline.lr_factor": lr}) for lr in (1, 2, 3)
)
TABLE = Table(
    "Baselines",
    "Made up.",
    (
        row("source", "runs/source"),
        Row("TENT, searched by labels", TRIES, "labels"),
        Row("TENT, searched without labels", TRIES, "evidence"),
    ),
)


def measured(miou: float, agreement: float, verdict: str = "improved") -> dict[str, Any]:
    return {"miou": miou, "evidence": {"verdict": verdict, "after": {"scale_iou": agreement}}}


METRICS = {1: measured(30.0, 0.9, "collapsed"), 2: measured(28.0, 0.6), 3: measured(31.0, 0.5)}


@pytest.fixture
def params() -> Params:
    given = load_params(Path(__file__).parents[2] / "params.yaml")
    assert given.data.validation is not None
    return given


def plan(settings: Any, seeds: list[int]) -> Plan:
    """Without the pipeline's files: a cell for each setting, named by its rate."""
    listed = list(dict.fromkeys((each.model, tuple(each.values.items())) for each in settings))
    found = [Setting(model, dict(values)) for model, values in listed]
    by = {(at, SEED): Cell(str(each.values["align.baseline.lr_factor"]), each.values) for at, each in enumerate(found)}
    assert seeds == [SEED]
    return Plan(list(by.values()), by, found)


class Evaluated:
    """Stands for computing: notes what was asked for."""

    def __init__(self, missing: tuple[str, ...] = ()) -> None:
        self.cells: list[Cell] = []
        self._missing = missing

    def __call__(self, table: Table, planned: Plan) -> State:
        self.cells = planned.cells
        there = {cell.name: METRICS[int(cell.name)] for cell in planned.cells if cell.name not in self._missing}
        return State(there, dict.fromkeys(self._missing, "queued"))


@pytest.fixture(autouse=True)
def planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "plan", plan)


def chosen(table: Table) -> dict[str, Any]:
    return {each.name: each.settings[0].values.get("align.baseline.lr_factor") for each in table.rows}


def test_the_best_on_the_validation_images_or_the_most_agreeing_that_is_not_collapsed(params: Params) -> None:
    evaluated = Evaluated()
    found, searches, unfinished = search(TABLE, params, evaluated)
    assert chosen(found) == {"source": None, "TENT, searched by labels": 3, "TENT, searched without labels": 2}
    assert all(not each.pick and len(each.settings) == 1 for each in found.rows)
    assert not unfinished
    assert "data.test.images" not in found.rows[1].settings[0].values, "results are on the test images"
    assert params.data.validation is not None
    for cell in evaluated.cells:
        assert cell.values["data.test.images"] == str(params.data.validation.images)
        assert cell.values["data.validation.images"] == str(params.data.test.images)
    text = told(searches)
    assert "| TENT, searched by labels | 3 | lr_factor 3 | 31.0 | 0.500 | 30.0 | 31.0 |" in text
    assert "| TENT, searched without labels | 3 | lr_factor 2 | 28.0 | 0.600 | 30.0 | 31.0 |" in text
    assert [len(each["tries"]) for each in searches_tree(searches)] == [3, 3]


def test_a_study_on_the_validation_images_searches_on_them(params: Params) -> None:
    evaluated = Evaluated()
    search(replace(TABLE, on=HeldOut.VALIDATION), params, evaluated)
    assert all("data.test.images" not in cell.values for cell in evaluated.cells)


def test_without_validation_images_only_what_needs_no_labels_is_searched(
    params: Params, caplog: pytest.LogCaptureFixture
) -> None:
    alone = params.model_copy(update={"data": params.data.model_copy(update={"validation": None})})
    caplog.set_level("INFO", "atp")
    found, _, _ = search(TABLE, alone, Evaluated())
    assert chosen(found) == {"source": None, "TENT, searched without labels": 2}
    assert "data.validation: null; rows that need labelled validation images are left out" in caplog.text
    assert isinstance(params.data.validation, MaybeLabelled)


def test_an_unfinished_search_is_told_and_leaves_the_other_rows(params: Params) -> None:
    found, searches, unfinished = search(TABLE, params, Evaluated(missing=("2",)))
    assert [each.name for each in found.rows] == ["source"]
    assert not searches
    assert not told(searches)
    assert [line.row.name for line in unfinished] == ["TENT, searched by labels", "TENT, searched without labels"]
    assert unfinished[0].missing == {"2": "queued"}


def test_a_table_without_searches_evaluates_nothing(params: Params) -> None:
    plain = replace(TABLE, rows=TABLE.rows[:1])
    found, searches, unfinished = search(plain, params, lambda table, planned: pytest.fail("nothing to try"))
    assert (found, searches, unfinished) == (plain, [], [])
