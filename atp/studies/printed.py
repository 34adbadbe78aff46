"""Figures that others publish, beside ours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from atp.studies.definitions import Row

FILE = Path(__file__).with_name("printed.yaml")


@dataclass(frozen=True)
class Printed:
    """A figure in print.

    Attributes:
        value: percent of mIoU.
        source: repository, file and commit that it stands in.
        which: target or set of classes, where a row has several.
        note: where it is not quite what its row says.
    """

    value: float
    source: str
    which: str = ""
    note: str = ""


def printed(section: str, rows: Sequence[Row]) -> dict[str, list[Printed]]:
    """What is published of each row, by its name; rows of which nothing is known are left out.

    Args:
        section: of printed.yaml; nothing is published of a study without one.
    """
    tree: Mapping[str, Mapping[str, Mapping[str, Any]]] = YAML(typ="safe", pure=True).load(FILE)
    entries = tree.get(section, {})
    found: dict[str, list[Printed]] = {}
    for row in rows:
        for name, entry in entries.items():
            # Of several targets a figure each: `source, Rome`.
            start, _, which = (name, "", "") if name == _published(row) else name.partition(", ")
            if start == _published(row):
                found.setdefault(row.name, []).append(Printed(which=which, **entry))
    return found


def _published(row: Row) -> str:
    return row.published or row.name
