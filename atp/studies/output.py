"""A table as Markdown, JSON and a plot."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from atp.report.figures import to_png
from atp.report.style import ACCENT, FAINT, INK, MODELS, OTHER_MODEL, SHADES, charts
from atp.runs import RUNS
from atp.studies.definitions import Table
from atp.studies.results import Line

ORACLE = "oracle:"
"""Prefix of the name of a row that is an upper bound of adaptation."""


def markdown(table: Table, lines: Sequence[Line], seeds: Sequence[int]) -> str:
    """The table with its caption."""
    header, best = [""], next((line for line in lines if line.row.name.startswith(ORACLE)), None)
    for name, _ in table.columns:
        header += [name, "standard deviation", f"over {lines[0].row.name}", *(["gap closed"] if best else [])]
        header.append("seeds " + " ".join(map(str, seeds)))
    rows = [header, ["---"] * len(header)]
    for line in lines:
        cells = [line.row.name]
        for _, protocol in table.columns:
            mean, reference = line.mean(protocol), lines[0].mean(protocol)
            gain = "" if mean is None or reference is None or line is lines[0] else f"{mean - reference:+.1f}"
            known = dict(zip((value.seed for value in line.values), line.figures(protocol), strict=True))
            each = " ".join(f"{known[seed]:.1f}" if seed in known else "-" for seed in seeds) if known else ""
            closed = [_closed(mean, reference, best.mean(protocol))] if best else []
            cells += [_figure(mean), _figure(line.deviation(protocol)), gain, *closed, each]
        rows.append(cells)
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
    return f"### {table.heading}\n\n{table.caption}\n\n{text}\n"


def missing(lines: Sequence[Line]) -> str:
    """Unfinished experiments with their rows and reasons; empty if there are none."""
    found = {name: why for line in lines for name, why in line.missing.items()}
    listed = "\n".join(f"- {name}, of {_rows(name, lines)}: {why}" for name, why in found.items())
    return f"\nMissing:\n\n{listed}\n" if found else ""


def _rows(missing: str, lines: Sequence[Line]) -> str:
    """The rows in which an experiment is missing."""
    first, *more = [line.row.name for line in lines if missing in line.missing]
    return f"“{first}”" + (f" and {len(more)} more" if more else "")


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _closed(mean: float | None, reference: float | None, best: float | None) -> str:
    """The closed share of the gap between the first row and the oracle."""
    if mean is None or reference is None or best is None or best == reference:
        return ""
    return f"{100 * (mean - reference) / (best - reference):.0f} %"


def tree(table: Table, lines: Sequence[Line], seeds: Sequence[int]) -> dict[str, Any]:
    """The table in machine-readable form."""
    return {
        "title": table.title,
        "measured_on": table.on,
        "caption": table.caption,
        "seeds": list(seeds),
        "table_of_the_paper": table.number or None,
        "rows": [
            {
                "name": line.row.name,
                "settings": [{"model": each.model, "values": dict(each.values)} for each in line.row.settings],
                "mean": line.mean(),
                "deviation": line.deviation(),
                "columns": {
                    name: {"mean": line.mean(protocol), "deviation": line.deviation(protocol)}
                    for name, protocol in table.columns
                },
                "curve": {"of": line.row.curve, "at": line.row.at} if line.row.curve else None,
                "place": asdict(line.row.place) if line.row.place else None,
                "values": [{"seed": v.seed, "experiment": v.experiment, **v.metrics} for v in line.values],
                "missing": dict(line.missing),
            }
            for line in lines
        ],
    }


def bars(table: Table, lines: Sequence[Line]) -> bytes:
    """One bar per row, with standard deviation and a dot per seed, in one panel per column; PNG."""
    shown = [line for line in lines if line.values]
    with charts():
        figure = Figure(figsize=(9, 1.2 + 0.34 * max(1, len(shown))), layout="constrained")
        panels = figure.subplots(1, len(table.columns), sharey=True, squeeze=False)[0]
        for axes, (name, protocol) in zip(panels, table.columns, strict=True):
            for place, line in enumerate(shown):
                _bar(axes, place, line, protocol)
            axes.set_xlabel(f"{name}, %" if len(panels) == 1 else f"mIoU of {name}, %")
            axes.grid(axis="y", visible=False)
        panels[0].set_yticks(range(len(shown)), [line.row.name for line in shown])
        panels[0].set_ylim(max(1, len(shown)) - 0.5, -0.5)
        figure.suptitle(table.heading, fontsize=10, weight="bold", color=INK)
        figure.supxlabel(
            "bar and whisker: mean and standard deviation of the seeds; dots: each seed", fontsize=8, color=FAINT
        )
        return to_png(figure)


def _bar(axes: Axes, place: int, line: Line, protocol: str) -> None:
    mean, figures = line.mean(protocol), line.figures(protocol)
    if mean is None:
        return
    axes.barh(place, mean, 0.72, color=MODELS.get(_stage(line), OTHER_MODEL))
    if (deviation := line.deviation(protocol)) is not None:
        axes.errorbar(mean, place, xerr=deviation, color=FAINT, capsize=3, linewidth=1)
    axes.plot(figures, [place] * len(figures), "o", color="#ffffff", markeredgecolor=FAINT, markersize=4)


def _stage(line: Line) -> str:
    return line.row.settings[0].model.split(f"{RUNS}/")[1].split("/")[0]


def curves(table: Table, lines: Sequence[Line]) -> bytes:
    """One panel per parameter: mean and standard deviation over its values, with the default marked; PNG.

    The values are equally spaced, since they would overlap on a linear scale.
    """
    parts = list(_curves(lines))
    with charts():
        figure = Figure(figsize=(9, 4.0), layout="constrained")
        panels = figure.subplots(1, max(1, len(parts)), sharey=True, squeeze=False)[0]
        for axes, (name, points) in zip(panels, parts, strict=False):
            _curve(axes, name, points)
            if not lines[0].row.curve and (level := lines[0].mean()) is not None:
                axes.axhline(level, color=FAINT, linestyle="--", linewidth=1, label=lines[0].row.name)
            axes.grid(axis="x", visible=False)
        panels[0].set_ylabel("mIoU, %")
        handles = {text: h for axes in panels for h, text in zip(*axes.get_legend_handles_labels(), strict=True)}
        if handles:
            figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncol=len(handles))
        figure.suptitle(table.heading, fontsize=10, weight="bold", color=INK)
        return to_png(figure)


def overlaid(table: Table, lines: Sequence[Line]) -> bytes:
    """All curves in one panel: means and standard deviations; PNG."""
    with charts():
        figure = Figure(figsize=(9, 4.4), layout="constrained")
        axes = figure.subplots()
        parts = list(_curves(lines))
        for color, (name, points) in zip(SHADES[: len(parts)], parts, strict=True):
            at, means = [line.row.at for line in points], [line.mean() or 0.0 for line in points]
            spread = [line.deviation() or 0.0 for line in points]
            axes.errorbar(at, means, yerr=spread, color=color, marker="o", capsize=2, label=name)
        axes.set_xlabel("epoch")
        axes.set_ylabel("mIoU, %")
        if parts:
            figure.legend(loc="outside right center")
        figure.suptitle(table.heading, fontsize=10, weight="bold", color=INK)
        return to_png(figure)


def _curves(lines: Sequence[Line]) -> Iterator[tuple[str, list[Line]]]:
    """The measured points of each parameter."""
    for name in dict.fromkeys(line.row.curve for line in lines if line.row.curve):
        points = [line for line in lines if line.row.curve == name and line.values]
        if points:
            yield name, points


def _curve(axes: Axes, name: str, points: Sequence[Line]) -> None:
    color, places = MODELS["teach"], list(range(len(points)))
    means = [line.mean() or 0.0 for line in points]
    spread = [line.deviation() or 0.0 for line in points]
    low, high = ([mean + sign * wide for mean, wide in zip(means, spread, strict=True)] for sign in (-1, 1))
    axes.fill_between(
        places, low, high, color=MODELS["align"], alpha=0.4, linewidth=0, label="standard deviation of the seeds"
    )
    axes.plot(places, means, color=color, linewidth=2, label="mean")
    for place, line in zip(places, points, strict=True):
        figures = line.figures()
        axes.plot(
            [place] * len(figures),
            figures,
            "o",
            color="#ffffff",
            markeredgecolor=color,
            markersize=4,
            label="each seed" if place == 0 else None,
        )
        if line.row.default:
            axes.axvline(place, color=ACCENT, linestyle=":", linewidth=1.5, label="as in params.yaml")
    axes.set_xticks(places, [f"{line.row.at:g}" for line in points])
    axes.margins(x=0.08)
    axes.set_xlabel(name)
