"""A table as Markdown, JSON and a plot."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from atp.report.figures import to_png
from atp.report.style import FAINT, MODELS, OTHER_MODEL, charts
from atp.tables.definitions import Table
from atp.tables.results import Line

READING = "As we read it; the print was not at hand."


def markdown(heading: str, table: Table, lines: Sequence[Line], seeds: Sequence[int]) -> str:
    """The table, what is to be known about it, and what is missing."""
    reference = lines[0].mean()
    header = ["", "mIoU", "deviation", f"over {lines[0].row.name}", "seeds " + " ".join(map(str, seeds))]
    rows = [header, ["---"] * len(header)]
    for line in lines:
        mean = line.mean()
        gain = "" if mean is None or reference is None or line is lines[0] else f"{mean - reference:+.1f}"
        each = " ".join(f"{value:.1f}" for value in line.figures())
        rows.append([line.row.name, _figure(mean), _figure(line.deviation()), gain, each])
    text = [f"### {heading}: {table.title}", f"{READING} {table.caption}"]
    text.append("\n".join(f"| {' | '.join(cells)} |" for cells in rows))
    missing = {name: why for line in lines for name, why in line.missing.items()}
    if missing:
        text.append("Missing:\n" + "\n".join(f"- {name}: {why}" for name, why in missing.items()))
    return "\n\n".join(text) + "\n"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def tree(heading: str, table: Table, lines: Sequence[Line], seeds: Sequence[int]) -> dict[str, Any]:
    """Everything, for machines."""
    return {
        "what": heading,
        "title": table.title,
        "reading": f"{READING} {table.caption}",
        "seeds": list(seeds),
        "rows": [
            {
                "name": line.row.name,
                "pick": line.row.pick or None,
                "settings": [{"model": each.model, "values": dict(each.values)} for each in line.row.settings],
                "mean": line.mean(),
                "deviation": line.deviation(),
                "values": [
                    {"seed": v.seed, "experiment": v.experiment, "setting": v.place, **v.metrics} for v in line.values
                ],
                "missing": dict(line.missing),
            }
            for line in lines
        ],
    }


def bars(heading: str, table: Table, lines: Sequence[Line]) -> bytes:
    """A bar a row, with its deviation and a dot a seed; PNG."""
    shown = [line for line in lines if line.values]
    with charts():
        figure = Figure(figsize=(9, 0.9 + 0.34 * max(1, len(shown))), layout="constrained")
        axes = figure.add_subplot()
        for place, line in enumerate(shown):
            mean, figures = line.mean() or 0.0, line.figures()
            axes.barh(place, mean, 0.72, color=MODELS.get(_stage(line), OTHER_MODEL))
            if (deviation := line.deviation()) is not None:
                axes.errorbar(mean, place, xerr=deviation, color=FAINT, capsize=3, linewidth=1)
            axes.plot(figures, [place] * len(figures), "o", color="#ffffff", markeredgecolor=FAINT, markersize=4)
        axes.set_yticks(range(len(shown)), [line.row.name for line in shown])
        axes.set_ylim(max(1, len(shown)) - 0.5, -0.5)
        axes.set_xlabel("mIoU, %; bar and whisker: mean and deviation of the seeds, dots: each seed")
        axes.grid(axis="y", visible=False)
        axes.set_title(f"{heading}: {table.title}")
        return to_png(figure)


def _stage(line: Line) -> str:
    return line.row.settings[0].model.split("runs/")[1].split("/")[0]
