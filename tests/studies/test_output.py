"""A table of made-up results."""

import json
from dataclasses import replace
from typing import Any

import pytest

from atp.errors import InputError
from atp.selection.grid import Cell
from atp.studies.cells import Plan
from atp.studies.command import AllFailError, Watch, parse_seeds
from atp.studies.definitions import HeldOut, Row, Setting, Table, row
from atp.studies.output import bars, curves, markdown, missing, overlaid, tree
from atp.studies.results import State, lines

FAST, SLOW = Setting("runs/align", {"lr": 1}), Setting("runs/align", {"lr": 2})
TABLE = Table(
    "Baselines",
    "Made up.",
    (
        row("source", "runs/source"),
        Row("TENT", (FAST,)),
        Row("TENT, slow", (SLOW,)),
    ),
    columns=(("mIoU", ""), ("two classes", "two")),
)
SEEDS = [0, 1]


def cell_name(setting: Setting, seed: int) -> str:
    return f"{setting.model}-{setting.values.get('lr')}-{seed}"


def planned() -> Plan:
    settings = [Setting("runs/source"), FAST, SLOW]
    by_setting = {
        (place, seed): Cell(cell_name(setting, seed), {}) for place, setting in enumerate(settings) for seed in SEEDS
    }
    return Plan(list(by_setting.values()), by_setting, settings)


def measured(miou: float, scale_iou: float, verdict: str = "improved") -> dict[str, Any]:
    return {
        "miou": miou,
        "protocols": {"two": miou + 1},
        "evidence": {"verdict": verdict, "after": {"scale_iou": scale_iou}},
    }


METRICS = {
    "runs/source-None-0": measured(20.0, 0.1),
    "runs/source-None-1": measured(24.0, 0.1),
    "runs/align-1-0": measured(30.0, 0.9, "collapsed"),
    "runs/align-1-1": measured(33.0, 0.5),
    "runs/align-2-0": measured(28.0, 0.6),
    "runs/align-2-1": measured(31.0, 0.6),
}


def test_means_and_deviations() -> None:
    found = {line.row.name: line for line in lines(TABLE, planned(), State(METRICS, {}), SEEDS)}
    assert found["source"].mean() == 22.0
    # Of the sample: the root of (4 + 4) / 1.
    assert found["source"].deviation() == pytest.approx(8**0.5)
    assert found["source"].mean("two") == 23.0
    assert found["TENT, slow"].figures() == [28.0, 31.0]


def test_a_table_says_on_which_images_it_was_measured() -> None:
    found = lines(TABLE, planned(), State(METRICS, {}), SEEDS)
    assert markdown(TABLE, found, SEEDS).startswith("### Baselines\n")
    assert tree(TABLE, found, SEEDS)["measured_on"] == "test"
    other = replace(TABLE, on=HeldOut.VALIDATION)
    assert markdown(other, found, SEEDS).startswith("### Baselines, on the validation images\n")
    assert json.loads(json.dumps(tree(other, found, SEEDS)))["measured_on"] == "validation"
    assert bars(other, found) != bars(TABLE, found)


def test_as_text_and_for_machines_with_what_is_missing() -> None:
    state = State(
        {name: each for name, each in METRICS.items() if name != "runs/align-1-1"}, {"runs/align-1-1": "queued"}
    )
    found = lines(TABLE, planned(), state, SEEDS)
    text = markdown(TABLE, found, SEEDS) + missing(found)
    assert "| source | 22.0 | 2.8 |  | 20.0 24.0 | 23.0 | 2.8 |  | 21.0 25.0 |" in text
    assert "| TENT | 30.0 |  | +8.0 | 30.0 - | 31.0 |  | +8.0 | 31.0 - |" in text
    assert "- runs/align-1-1, of “TENT”: queued" in text
    known = json.loads(json.dumps(tree(TABLE, found, SEEDS)))
    assert known["rows"][1]["missing"] == {"runs/align-1-1": "queued"}
    assert known["rows"][0]["columns"]["two classes"]["mean"] == 23.0
    assert [value["experiment"] for value in known["rows"][0]["values"]] == ["runs/source-None-0", "runs/source-None-1"]


def test_an_oracle_shows_how_much_of_the_gap_is_closed() -> None:
    table = Table("Parts", "Made up.", (*TABLE.rows[:2], row("oracle: by labels", "runs/align", {"lr": 2})))
    metrics = METRICS | {"runs/align-2-0": measured(41.0, 0.6), "runs/align-2-1": measured(43.0, 0.6)}
    text = markdown(table, lines(table, planned(), State(metrics, {}), SEEDS), SEEDS)
    # From 22 to 42; 31.5 is 9.5 on the way.
    assert "| TENT | 31.5 | 2.1 | +9.5 | 48 % | 30.0 33.0 |" in text
    assert "| gap closed |" in text


def test_pictures_are_drawn_of_whatever_there_is() -> None:
    points = tuple(row(f"K = {at}", "runs/align", {"lr": at}, curve="K", at=float(at)) for at in (1, 2))
    table = Table("Sensitivity", "Made up.", (TABLE.rows[0], *points), kind="curves")
    for state in (State(METRICS, {}), State({}, dict.fromkeys(METRICS, "not begun"))):
        assert curves(table, lines(table, planned(), state, SEEDS)).startswith(b"\x89PNG")
        assert overlaid(table, lines(table, planned(), state, SEEDS)).startswith(b"\x89PNG")
        assert bars(TABLE, lines(TABLE, planned(), state, SEEDS)).startswith(b"\x89PNG")


@pytest.mark.parametrize("text", ["", "a", "0,0", "-1", "0;1"])
def test_seeds_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="--seeds"):
        parse_seeds(text)


def test_when_the_first_all_fail_alike_the_rest_is_not_tried(caplog: pytest.LogCaptureFixture) -> None:
    cells = [Cell(name, {}) for name in "abcdef"]
    caplog.set_level("INFO")

    def watch() -> Watch:
        return Watch(cells, {cell.name: f"row {cell.name}" for cell in cells}, before=0)

    watch().left("cdef", {"a": "no data", "b": "no data"})
    assert "row a (a): failed: no data" in caplog.text
    watch().left("def", {"a": "no data", "b": "no data", "c": "another reason"})
    watch().left("cf", {"a": "no data", "b": "no data", "d": "no data"})
    with pytest.raises(AllFailError, match="no data"):
        watch().left("def", {"a": "no data", "b": "no data", "c": "no data"})
