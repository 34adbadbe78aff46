"""What a table or figure is: rows, each of them a model of the pipeline for some parameters. They are listed in
``contents``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from atp import runs

SOURCE, ALIGN, PROPAGATE = str(runs.SOURCE), str(runs.ALIGN), str(runs.PROPAGATE)


@dataclass(frozen=True)
class Setting:
    """A model of the pipeline, for one set of parameters.

    Attributes:
        model: folder of the stage that makes it.
        values: parameters by dotted name that differ from params.yaml; of another file as ``FILE:NAME``.
    """

    model: str
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A row of a table, or a point of a curve.

    Attributes:
        name: as printed.
        settings: one, or several of which one is picked for each seed.
        pick: by what: ``evidence``, measured without labels, or ``labels``, which is an oracle. One that picks the same
            as the row above it is left out.
        published: its name in printed.yaml; empty is that of the row.
        curve: parameter that is varied, of a point of a curve.
        at: its value there.
        default: that is what it is in params.yaml.
    """

    name: str
    settings: tuple[Setting, ...]
    pick: Literal["", "evidence", "labels"] = ""
    published: str = ""
    curve: str = ""
    at: float = 0.0
    default: bool = False


@dataclass(frozen=True)
class Table:
    """A table, or a figure.

    Attributes:
        title: what it shows.
        caption: what is to be known about its rows.
        rows: in order; the first is what the others are compared with.
        columns: what is measured: a heading, and the name in ``data.protocols``, empty for the mean over all classes.
        whose: of what data others' figures are that stand beside ours.
        kind: how it is drawn: ``bars``, ``curves`` of one parameter each, or ``pictures`` of test images.
    """

    title: str
    caption: str
    rows: tuple[Row, ...]
    columns: tuple[tuple[str, str], ...] = (("mIoU", ""),)
    whose: str = ""
    kind: Literal["bars", "curves", "pictures"] = "bars"


def row(name: str, model: str, values: Mapping[str, Any] | None = None, **more: Any) -> Row:
    """A row of one setting.

    Args:
        more: further attributes of the row.
    """
    return Row(name, (Setting(model, values or {}),), **more)
