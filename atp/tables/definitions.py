"""What the paper's tables and figures are made of, as data: rows, their parameters, and the model that is measured.

The print was not at hand: what its tables hold is our reading of it, and docs/paper.md says what that rests on. To
change a table, change its rows here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from atp.config import Params

SOURCE, ALIGN, PROPAGATE = "runs/source", "runs/align", "runs/propagate"


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
    """A row of a table.

    Attributes:
        name: as printed.
        settings: one, or several of which one is picked for each seed.
        pick: by what: ``evidence``, measured without labels, or ``labels``, which is an oracle.
    """

    name: str
    settings: tuple[Setting, ...]
    pick: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: what it shows.
        caption: what is to be known about its rows.
        rows: in order; the first is what the others are compared with.
    """

    title: str
    caption: str
    rows: tuple[Row, ...]


def row(name: str, model: str, **values: Any) -> Row:
    """A row of one setting; dots of the parameters' names are double underscores."""
    return Row(name, (Setting(model, dotted(values)),))


def dotted(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace("__", "."): value for name, value in values.items()}


FLIP = {"jitter": 0.0, "blur": False}
"""Photometric augmentation off."""


def taught(params: Params) -> str:
    """Folder of the last round's model."""
    return f"runs/teach/{list(params.rounds)[-1]}"


def table_5(params: Params) -> Table:
    """The parts of the method one by one."""
    teach = taught(params)
    plain = {"teach.augmentation.jitter": 0.0, "teach.augmentation.blur": False}
    return Table(
        "The parts of the method, one by one",
        "Each row adds one part to the one above it. Without photometric augmentation: no jitter and no blur in teach.",
        (
            row("source", SOURCE),
            row("BatchNorm only", ALIGN, align__method="batchnorm"),
            row("(a) curriculum entropy", ALIGN, align__diversity=0.0),
            row("(b) + plain diversity", ALIGN, align__weighted=False),
            row("(c) + weighted diversity = align", ALIGN),
            row("(d) + positive labels", teach, teach__negative=0.0),
            Row("(d) without photometric augmentation", (Setting(teach, {"teach.negative": 0.0, **plain}),)),
            row("(e) + negative labels = teach", teach),
            Row("(e) without photometric augmentation", (Setting(teach, plain),)),
            row("(f) + propagation = propagate", PROPAGATE),
            row("(f) straight from align, without teach", PROPAGATE, split__model=ALIGN),
        ),
    )


TABLES: Mapping[int, Callable[[Params], Table]] = {5: table_5}
