"""Published results, shown beside ours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from atp.studies.definitions import Row

FILE = Path(__file__).with_name("printed.yaml")


@dataclass(frozen=True)
class Printed:
    """A published result.

    Attributes:
        value: percent of mIoU.
        source: repository, file and commit of the result.
        which: target or set of classes, if a row has several.
        note: deviation from the row's description.
    """

    value: float
    source: str
    which: str = ""
    note: str = ""


def printed(section: str, rows: Sequence[Row]) -> dict[str, list[Printed]]:
    """Published results by row name; rows without any are left out.

    Args:
        section: section of printed.yaml; a study without one has no published results.
    """
    tree: Mapping[str, Mapping[str, Mapping[str, Any]]] = YAML(typ="safe", pure=True).load(FILE)
    entries = tree.get(section, {})
    found: dict[str, list[Printed]] = {}
    for row in rows:
        for name, entry in entries.items():
            # With several targets, one result each: `source, Rome`.
            start, _, which = (name, "", "") if name == _published(row) else name.partition(", ")
            if start == _published(row):
                found.setdefault(row.name, []).append(Printed(which=which, **entry))
    return found


def _published(row: Row) -> str:
    return row.published or row.name
