"""The parts of a table or figure: rows, each a model of the pipeline for some parameters; see ``contents``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from atp import runs

SOURCE, ALIGN, PROPAGATE = str(runs.SOURCE), str(runs.ALIGN), str(runs.PROPAGATE)


class HeldOut(StrEnum):
    """Entries of the section ``data`` that a study can measure on."""

    TEST = "test"
    VALIDATION = "validation"


@dataclass(frozen=True)
class Where:
    """The images on which a table is computed.

    Attributes:
        on: images to measure on.
        testbed: one of ``testbeds``; empty for the data of params.yaml.
        roots: folders of downloads by name: ``camvid`` and ``idd_lite``.
    """

    on: HeldOut = HeldOut.TEST
    testbed: str = ""
    roots: Mapping[str, Path] = field(default_factory=dict)

    def files(self, name: str) -> str:
        """Name of a table's files."""
        return "-".join([name, *filter(None, (self.testbed, self.on if self.on is not HeldOut.TEST else ""))])


@dataclass(frozen=True)
class Setting:
    """A model of the pipeline for one set of parameters.

    Attributes:
        model: folder of the stage that trains it.
        values: overrides of params.yaml by dotted name, or of another file by ``FILE:NAME``.
    """

    model: str
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """What a computed row stands beside in a table of the paper: a printed row, or one of its cells.

    Attributes:
        row: name of the printed row.
        column: heading of the cell; empty for the whole row.
        city: target city, in Table 3.
    """

    row: str
    column: str = ""
    city: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a table, or a point of a curve.

    Attributes:
        name: printed name.
        settings: one, or the tries of a search, from which one is chosen: see ``search``.
        pick: how it is chosen: by the ``labels`` of the validation images, or by the ``evidence`` without labels.
        place: its place in a table of the paper.
        curve: varied parameter, for a point of a curve.
        at: the parameter's value at this point.
        default: whether this is the value in params.yaml.
    """

    name: str
    settings: tuple[Setting, ...]
    pick: Literal["", "labels", "evidence"] = ""
    place: Place | None = None
    curve: str = ""
    at: float = 0.0
    default: bool = False


@dataclass(frozen=True)
class Table:
    """A table, or a figure.

    Attributes:
        title: what it shows.
        caption: explanation of its rows.
        rows: in order; the first is the reference for the others.
        columns: heading and name in ``data.protocols`` of each measure; an empty name is the mean over all classes.
        kind: plot type: ``bars``; ``printed``, ours beside the paper's; ``curves`` of one parameter each, side by side
            or ``overlaid``; or ``pictures`` of images with predictions.
        number: number of the paper's table, for ``printed``.
        on: the images on which it is measured.
    """

    title: str
    caption: str
    rows: tuple[Row, ...]
    columns: tuple[tuple[str, str], ...] = (("mIoU", ""),)
    kind: Literal["bars", "printed", "curves", "overlaid", "pictures"] = "bars"
    number: int = 0
    on: HeldOut = HeldOut.TEST

    @property
    def heading(self) -> str:
        """The title, which names the images unless results are reported on them."""
        return self.title if self.on is HeldOut.TEST else f"{self.title}, on the {self.on} images"


def row(name: str, model: str, values: Mapping[str, Any] | None = None, **more: Any) -> Row:
    """A row with one setting.

    Args:
        more: further attributes of the row.
    """
    return Row(name, (Setting(model, values or {}),), **more)
