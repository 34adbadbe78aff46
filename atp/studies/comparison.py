"""A table of the paper with ours below each printed row, as Markdown and as a plot."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from matplotlib.figure import Figure

from atp.report.figures import to_png
from atp.report.style import INK, MODELS, OTHER_MODEL, charts
from atp.studies.definitions import Place, Table
from atp.studies.paper import PrintedRow, class_columns, columns, printed
from atp.studies.results import Line

TICK = "x"


@dataclass(frozen=True)
class Pair:
    """A printed row, and ours beside it.

    Attributes:
        row: as printed; without values for a target that is not printed.
        whole: our row.
        cells: our results for single cells, by column.
    """

    row: PrintedRow
    whole: Line | None
    cells: Mapping[str, Line]


def pairs(table: Table, lines: Sequence[Line]) -> list[Pair]:
    """All printed rows in their order; then, for a target that is not printed, the rows that have a result."""
    places = {line.row.place: line for line in lines}
    found = []
    for row in _rows(table):
        cells = {column: places.get(Place(row.name, column, row.city)) for column in columns(table.number)}
        own = {column: line for column, line in cells.items() if line}
        found.append(Pair(row, places.get(Place(row.name, "", row.city)), own))
    return found


def _rows(table: Table) -> Iterator[PrintedRow]:
    rows = printed(table.number)
    yield from rows
    cities, groups = {row.city for row in rows}, {row.name: row.group for row in rows}
    for row in table.rows:
        if row.place and row.place.city not in cities:
            yield PrintedRow(row.place.row, None, groups[row.place.row], {}, city=row.place.city)


def comparison(table: Table, lines: Sequence[Line], seeds: Sequence[int]) -> str:
    """The table; without lines, the print alone."""
    shown, together = _columns(table, lines), pairs(table, lines)
    targets, groups = (
        any(pair.row.city for pair in together),
        any(pair.row.group == "source-dependent" for pair in together),
    )
    header = [*(["target"] if targets else []), *(["group"] if groups else []), "", "figures of", *shown]
    header.append(f"seeds {' '.join(map(str, seeds))}".strip())
    rows = [header, ["---"] * len(header)]
    for pair in together:
        row = pair.row
        start = [*([pair.row.city] if targets else []), *([row.group] if groups else [])]
        start.append(f"{row.name} [{row.reference}]" if row.reference else row.name)
        if row.values:
            rows.append([*start, "paper", *(_printed(row, column, table) for column in shown), ""])
        if pair.whole:
            rows.append([*start, "here", *_whole(table, pair.whole, shown, row), _seeds(table, pair.whole, seeds)])
        if pair.cells:
            cells = (pair.cells.get(column) for column in shown)
            rows.append([*start, "here", *(_spread(line.figures()) if line else "" for line in cells), ""])
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
    return f"### {table.heading}\n\n{table.caption}\n\n{text}\n"


def rows_and_settings(table: Table) -> str:
    """The print, and the model and settings that are measured beside its rows; nothing is computed."""
    listed = []
    for row in table.rows:
        for each in row.settings:
            values = ", ".join(f"{name}={value}" for name, value in each.values.items())
            listed.append(f"- {row.name}: {each.model}{f' with {values}' if values else ''}")
    text = comparison(table, [], []) if table.number else f"### {table.heading}\n\n{table.caption}\n"
    return f"{text}\nMeasured here:\n\n" + "\n".join(listed) + "\n"


def _columns(table: Table, lines: Sequence[Line]) -> list[str]:
    """The printed columns; in a table of classes, those that only our data have come last."""
    names, classes = columns(table.number), class_columns(table.number)
    ours = {name: None for line in lines for value in line.values for name in value.metrics["iou"]}
    return [*names, *(name for name in ours if classes and name not in classes)]


def _printed(row: PrintedRow, column: str, table: Table) -> str:
    if column in row.ticked:
        return TICK
    absent = "-" if column in columns(table.number) else ""
    return f"{row.values[column]:.1f}" if column in row.values else absent


def _whole(table: Table, line: Line, shown: Sequence[str], row: PrintedRow) -> Iterator[str]:
    measures = dict(table.columns)
    for column in shown:
        if column in measures:
            yield _spread(line.figures(measures[column]))
        elif figures := line.iou(column):
            yield f"{mean(figures):.1f}"
        else:
            yield TICK if column in row.ticked else ""


def _spread(figures: Sequence[float]) -> str:
    if not figures:
        return "-"
    return f"{mean(figures):.1f}" + (f" ± {stdev(figures):.1f}" if len(figures) > 1 else "")


def _seeds(table: Table, line: Line, seeds: Sequence[int]) -> str:
    known = dict(zip((value.seed for value in line.values), line.figures(table.columns[0][1]), strict=True))
    return " ".join(f"{known[seed]:.1f}" if seed in known else "-" for seed in seeds)


def picture(table: Table, lines: Sequence[Line]) -> bytes:
    """The mIoU of each row or cell: the printed as a hollow mark, ours as a filled one; PNG."""
    measure, protocol = table.columns[0]
    entries: list[tuple[str, float | None, Line | None]] = []
    for pair in pairs(table, lines):
        name = ", ".join(part for part in (pair.row.city, pair.row.name) if part)
        if measure in columns(table.number):
            if measure in pair.row.values or pair.whole:
                entries.append((name, pair.row.values.get(measure), pair.whole))
        else:
            entries += [(f"{name}, {at}", value, pair.cells.get(at)) for at, value in pair.row.values.items()]
    with charts():
        figure = Figure(figsize=(9, 1.4 + 0.24 * len(entries)), layout="constrained")
        axes = figure.subplots()
        for place, (_, value, line) in enumerate(entries):
            if value is not None:
                axes.plot(
                    value,
                    place,
                    "o",
                    color="#ffffff",
                    markeredgecolor=OTHER_MODEL,
                    markersize=7,
                    label="paper, printed",
                )
            if line and (ours := line.mean(protocol)) is not None:
                axes.errorbar(
                    ours,
                    place,
                    xerr=line.deviation(protocol),
                    fmt="o",
                    color=MODELS["propagate"],
                    capsize=3,
                    markersize=6,
                    label="here, on the data of params.yaml",
                )
        axes.set_yticks(range(len(entries)), [name for name, _, _ in entries])
        axes.set_ylim(len(entries) - 0.5, -0.5)
        axes.set_xlabel(f"{measure}, %")
        handles = {text: handle for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncol=2)
        figure.suptitle(table.heading, fontsize=10, weight="bold", color=INK)
        return to_png(figure)
