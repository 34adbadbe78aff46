"""The result of a run in words and as a table for the terminal."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from atp.report.results import in_order, known
from atp.runs import BATCHNORM_ONLY


def summary_table(metrics: Mapping[str, Any], verdicts: Mapping[str, str] = MappingProxyType({})) -> str:
    """mIoU of every model and its gain over the source model, as a text table; without labels, the entropies.

    Args:
        metrics: the contents of ``runs/evaluate/metrics.json``.
        verdicts: verdicts without labels, by model name.
    """
    miou = known(metrics["miou"])
    values, heading, digits = (miou, "mIoU, %", 1) if miou else (metrics["entropy"], "entropy", 3)
    columns: dict[str, Mapping[str, str]] = {heading: {name: f"{value:.{digits}f}" for name, value in values.items()}}
    if "source" in miou:
        columns["over source"] = {
            name: f"{value - miou['source']:+.1f}" for name, value in miou.items() if name != "source"
        }
    for protocol, means in metrics.get("protocols", {}).items():
        columns[protocol] = {name: f"{mean:.1f}" for name, mean in known(means).items()}
    if verdicts:
        heading = "without labels"
        columns[heading] = {name: said.ljust(len(heading)) for name, said in verdicts.items()}
    names = in_order(values)
    first = max(map(len, names)) + 1
    widths = {head: max(map(len, [head, *cells.values()])) for head, cells in columns.items()}
    lines = [["".ljust(first), *(head.rjust(width) for head, width in widths.items())]]
    for name in names:
        lines.append([name.ljust(first), *(cells.get(name, "").rjust(widths[head]) for head, cells in columns.items())])
    if not miou:
        remark = "The test images have no labels, so there is no mIoU; entropy measures confidence, not accuracy."
        lines.append([remark])
    return "\n".join("  ".join(line).rstrip() for line in lines)


def verdict(miou: Mapping[str, float], last: str) -> str:
    """Summarise the metrics in one sentence, including losses.

    Args:
        miou: percent, by model; empty without labels.
        last: the adapted model.
    """
    if last not in miou:
        return "The test images have no labels, so this page cannot say whether adaptation helped."
    first = next(iter(miou))
    than = "the source model" if first == "source" else f"{first}, the first model known"
    text = f"{last} is {_points(miou[last] - miou[first], ' points of mIoU')} {than}"
    if BATCHNORM_ONLY in miou:
        more = _points(miou[last] - miou[BATCHNORM_ONLY])
        text += f", and {more} what re-estimating its BatchNorm statistics alone gives"
    return f"{text}."


def _points(difference: float, unit: str = "") -> str:
    if round(difference, 1) == 0:
        return "level with"
    return f"{abs(difference):.1f}{unit} {'above' if difference > 0 else 'below'}"
