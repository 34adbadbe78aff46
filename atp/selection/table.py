"""A ranking as text for a terminal."""

from collections.abc import Mapping, Sequence

from atp.selection.ranking import COLLAPSED, Choice, differences, figure, indicators, verdict
from atp.selection.repository import WORKSPACE

ORACLE = (
    "oracle: by mIoU on the labelled test images. It is not available without labels and serves to judge the choice, "
    "not to make it."
)

SHOWN = ("augmentation_iou", "entropy", "marginal_kl", "classes")
"""Indicators shown in addition to the ranking one; --json has all of them."""


def choice_table(choice: Choice, stage: str) -> str:
    """The ranking without labels, followed by the ranking with labels."""
    parts = []
    if choice.places:
        parts += [
            f"by {choice.by} of {stage}, measured without labels:",
            _ranking(choice),
            _vanished(choice),
            _reference(choice),
        ]
    parts += [_others(choice)]
    if choice.oracle:
        rows = [[_rank(place.rank), place.run.name, f"{place.value:.2f}"] for place in choice.oracle]
        parts += [ORACLE, _columns(["", "run", "mIoU"], rows), _cost(choice)]
    parts += [
        "\n".join(f"{p.run.name}: no mIoU: {p.run.unmatched}" for p in choice.places if p.run.unmatched),
        _what_next(choice),
    ]
    return "\n\n".join(part for part in parts if part)


def _ranking(choice: Choice) -> str:
    known = {name for place in choice.places for name in indicators(place.run)}
    names = [choice.by, *(name for name in SHOWN if name in known and name != choice.by)]
    differing = differences([place.run for place in choice.places])
    params = list(next(iter(differing.values())))
    rows = []
    for place in choice.places:
        figures = ["-" if (value := figure(place.run, name)) is None else f"{value:.3f}" for name in names]
        rows.append(
            [_rank(place.rank), place.run.name, verdict(place.run), *figures, *differing[place.run.name].values()]
        )
    return _columns(["", "run", "verdict", *names, *params], rows)


def _vanished(choice: Choice) -> str:
    return "\n".join(f"{place.run.name}: {place.run.vanished}" for place in choice.places if place.run.vanished)


def _reference(choice: Choice) -> str:
    """The source model's value, to show whether adaptation helped at all."""
    picked = choice.picked
    source = picked.evidence["source"].get(choice.by) if picked and picked.evidence else None
    if picked is None or source is None:
        return ""
    return f"the source model of {picked.name} has {choice.by} {source:.3f}"


def _others(choice: Choice) -> str:
    lines = []
    for run, why in choice.others:
        state = run.state if run.state != "finished" and run.name != WORKSPACE else "not ranked"
        told = why or ("killed, or ended without an error: see dvc queue logs" if run.state == "failed" else "")
        lines.append(f"{run.name}: {state}" + (f": {told}" if told else ""))
    return "\n".join(lines)


def _cost(choice: Choice) -> str:
    cost, picked = choice.cost, choice.picked
    if cost is None or picked is None:
        return ""
    if cost <= 0:
        return f"{picked.name}, picked without labels, is also the best with labels"
    best = choice.oracle[0]
    return (
        f"{picked.name}, picked without labels, has mIoU {picked.miou:.2f}, "
        f"the best {best.value:.2f} ({best.run.name}): choosing without labels costs {cost:.2f} points"
    )


def _what_next(choice: Choice) -> str:
    picked = choice.picked
    if picked is None:
        if any(verdict(place.run) == COLLAPSED for place in choice.places):
            return "picked: none; all runs collapsed"
        return "picked: none; there is no finished run with evidence: dvc repro, or atp select --grid"
    if picked.name == WORKSPACE:
        return f"picked: {WORKSPACE}, which is the current workspace"
    return (
        f"picked: {picked.name}\n"
        f"to take it: dvc exp apply {picked.name}, or --apply; then dvc repro reports and registers it"
    )


def _rank(rank: int | None) -> str:
    return "-" if rank is None else str(rank)


def _columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]
    return "\n".join(lines)


def queued_lines(found: Mapping[str, Sequence[str]], *, run: bool) -> str:
    """The states of a grid's combinations, and the next steps."""
    said = {
        "finished": "finished before",
        "running": "running",
        "queued": "queued before",
        "new": "queued",
        "failed": "failed before; to retry: dvc queue remove",
    }
    lines = [f"{said[state]}: {', '.join(names)}" for state, names in found.items() if names]
    if run:
        lines.append("running them one after the other; Ctrl-C stops watching, dvc queue stop --kill stops the runs")
    elif found["new"] or found["queued"]:
        lines.append("to run them: dvc queue start, from the root of the project, or --run; then atp select")
    return "\n".join(lines)
