"""The paper's printed results: Tables 1 to 9 and the parameters of its figures, from ``paper.yaml``."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

from ruamel.yaml import YAML

from atp.datasets.label_maps import CLASS_SETS

FILE = Path(__file__).with_name("paper.yaml")

Group = Literal["source-dependent", "source-free", "baseline", "ours"]


@dataclass(frozen=True)
class PrintedRow:
    """A printed row of a table.

    Attributes:
        name: as in that table, without the reference number.
        reference: its number in the paper's list of references; Table 4 uses another list.
        group: whether the method trains on source images; or ATP's starting point, or ATP itself.
        values: percent by column, in the order of the print; columns with a dash are left out.
        ticked: columns with a tick, of Table 5.
        city: target city, in Table 3.
    """

    name: str
    reference: int | None
    group: Group
    values: Mapping[str, float]
    ticked: tuple[str, ...] = ()
    city: str = ""


@dataclass(frozen=True)
class PrintedFigure:
    """The contents of a figure of the paper; its curves are images, without known values.

    Attributes:
        columns: columns of Figure 4.
        varied: parameters and their values.
        chosen: the paper's choice for each parameter.
        says: the text's statement about the curves.
    """

    title: str
    columns: tuple[str, ...]
    varied: Mapping[str, tuple[float, ...]]
    chosen: Mapping[str, float]
    says: str


def printed(table: int) -> list[PrintedRow]:
    """The rows of one of Tables 1 to 9, in the order of the print."""
    entry = _read()["tables"][table]
    names = columns(table)
    parts = entry.get("cities") or {"": entry["rows"]}
    return [
        _row(str(name), str(values), names, group, city)
        for city, groups in parts.items()
        for group, rows in groups.items()
        for name, values in rows.items()
    ]


def title(part: str, number: int) -> str:
    """What a table or figure shows.

    Args:
        part: ``tables`` or ``figures``.
    """
    found: str = _read()[part][number]["title"]
    return found


def columns(table: int) -> list[str]:
    """Names of a table's columns: its classes, if any, then the remaining columns."""
    return [*class_columns(table), *_read()["tables"][table]["columns"]]


def class_columns(table: int) -> tuple[str, ...]:
    """Those of a table's columns that are classes, in Cityscapes' order."""
    return CLASS_SETS.get(_read()["tables"][table].get("classes"), ())


def printed_figure(number: int) -> PrintedFigure:
    """The contents of one of figures 4 to 6."""
    entry = _read()["figures"][number]
    return PrintedFigure(
        entry["title"],
        tuple(entry.get("columns", ())),
        {name: tuple(values) for name, values in entry.get("varied", {}).items()},
        entry.get("chosen", {}),
        entry.get("says", ""),
    )


def _row(name: str, values: str, names: list[str], group: str, city: str) -> PrintedRow:
    cells = dict(zip(names, values.split(), strict=True))
    cited = re.fullmatch(r"(.+) \[(\d+)\]", name)
    return PrintedRow(
        name=cited[1] if cited else name,
        reference=int(cited[2]) if cited else None,
        group=cast(Group, group),
        values={column: float(cell) for column, cell in cells.items() if cell not in ("-", "x")},
        ticked=tuple(column for column, cell in cells.items() if cell == "x"),
        city=city,
    )


@cache
def _read() -> dict[str, Any]:
    tree: dict[str, Any] = YAML(typ="safe", pure=True).load(FILE)
    return tree
