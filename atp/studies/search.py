"""Rows whose settings are searched: tried with another seed, and chosen on the validation images or without labels."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from atp.params import Params
from atp.selection.ranking import COLLAPSED, INDICATOR
from atp.studies.catalogue import exchanged, with_values
from atp.studies.cells import Plan, plan
from atp.studies.definitions import HeldOut, Row, Setting, Table
from atp.studies.results import Line, State

logger = logging.getLogger(__name__)

SEED = 100
"""Seed of all tries; results are of other seeds."""


@dataclass(frozen=True)
class Search:
    """A row's tries.

    Attributes:
        row: the row before the search, with a setting for each try.
        measured: results of the tries; mIoU is on the validation images.
        chosen: index of the chosen try.
    """

    row: Row
    measured: Sequence[Mapping[str, Any]]
    chosen: int


def search(
    table: Table, params: Params, evaluated: Callable[[Table, Plan], State]
) -> tuple[Table, list[Search], list[Line]]:
    """Replace each searched row by one with its chosen setting.

    Args:
        params: a study's, with the images that it measures on as test images.
        evaluated: computes, or only collects, the cells of a table's plan.

    Returns:
        The table with one setting in each row; the searches; and rows that lack results of their search.
    """
    there = table.on is HeldOut.VALIDATION or params.data.validation is not None
    rows = [row for row in table.rows if there or row.pick != "labels"]
    if len(rows) < len(table.rows):
        logger.info("params.yaml: data.validation: null; rows that need labelled validation images are left out")
    wanted = [row for row in rows if row.pick]
    if not wanted:
        return replace(table, rows=tuple(rows)), [], []
    values = exchanged(params.data) if there and table.on is HeldOut.TEST else {}
    tries = with_values(replace(table, rows=tuple(wanted)), values)
    planned = plan((setting for row in tries.rows for setting in row.settings), [SEED])
    state = evaluated(tries, planned)
    outcome: dict[str, Search | Line] = {}
    for row, tried in zip(wanted, tries.rows, strict=True):
        outcome[row.name] = _searched(row, [planned.cell(setting, SEED).name for setting in tried.settings], state)
    searches = [each for each in outcome.values() if isinstance(each, Search)]
    chosen = {each.row.name: each.row.settings[each.chosen] for each in searches}
    found = [
        replace(row, settings=(chosen[row.name],), pick="") if row.pick else row
        for row in rows
        if not row.pick or row.name in chosen
    ]
    unfinished = [each for each in outcome.values() if isinstance(each, Line)]
    return replace(table, rows=tuple(found)), searches, unfinished


def _searched(row: Row, names: Sequence[str], state: State) -> Search | Line:
    absent = {name: state.missing[name] for name in names if name not in state.metrics}
    if absent:
        return Line(row, [], absent)
    measured = [state.metrics[name] for name in names]
    key = _without_labels if row.pick == "evidence" else _by_labels
    # The first of equal ones, which is the published setting.
    return Search(row, measured, max(range(len(measured)), key=lambda place: key(measured[place])))


def _by_labels(metrics: Mapping[str, Any]) -> float:
    miou: float = metrics["miou"]
    return miou


def _without_labels(metrics: Mapping[str, Any]) -> tuple[bool, float]:
    """The order of ``atp select``: a collapsed model comes last."""
    evidence = metrics["evidence"]
    return evidence["verdict"] != COLLAPSED, evidence["after"][INDICATOR]


def told(searches: Sequence[Search]) -> str:
    """The searches as Markdown; empty if there are none."""
    if not searches:
        return ""
    header = ["", "tries", "chosen", "mIoU, validation", f"{INDICATOR}", "mIoU of the first try", "best mIoU of all"]
    rows = [header, ["---"] * len(header)]
    for each in searches:
        metrics, mious = each.measured[each.chosen], [other["miou"] for other in each.measured]
        agreement = metrics["evidence"]["after"][INDICATOR]
        figures = [f"{metrics['miou']:.1f}", f"{agreement:.3f}", f"{mious[0]:.1f}", f"{max(mious):.1f}"]
        rows.append([each.row.name, str(len(mious)), named(each.row.settings[each.chosen]), *figures])
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
    return f"\nSearched with seed {SEED}:\n\n{text}\n"


def named(setting: Setting) -> str:
    """A setting without the entries that all tries of a baseline share."""
    shown = {name: value for name, value in setting.values.items() if not name.startswith(("align.method", "data."))}
    return ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in shown.items()) or "as published"


def searches_tree(searches: Sequence[Search]) -> list[dict[str, Any]]:
    """All tries in machine-readable form."""
    return [
        {
            "row": each.row.name,
            "by": each.row.pick,
            "seed": SEED,
            "chosen": each.chosen,
            "tries": [
                {"values": dict(setting.values), "miou": metrics["miou"], "evidence": metrics["evidence"]}
                for setting, metrics in zip(each.row.settings, each.measured, strict=True)
            ],
        }
        for each in searches
    ]
