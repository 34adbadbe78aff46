"""Classes that a model has almost ceased to predict, which a mean over classes hides: a warning beside the verdict.

No part of the verdict: shares change in good runs as well, above all those of classes that a source model sees
everywhere. docs/explanation/evidence.md has the runs that the limits were taken from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from atp.evaluation.evidence.record import SHARES, Shares, model_folders, read_shares


@dataclass(frozen=True)
class Limits:
    """When a class has almost vanished.

    Attributes:
        ratio: of its share by the start model, below which it must have fallen.
        left: of the pixels; a class that still has more is there, though the start model saw it everywhere.
        least: of the pixels that the start model gave it; below it is noise.
    """

    ratio: float = 0.2
    left: float = 0.01
    least: float = 0.001


LIMITS = Limits()

MOST_TOLD = 8
"""Of a hundred classes."""


def vanished(shares: Shares, at: Limits = LIMITS) -> dict[str, tuple[float, float]]:
    """Classes that almost vanished, with their shares by the start model and by this one, the greatest loss first."""
    pairs = {name: (before, shares["after"][name]) for name, before in shares["source"].items()}
    lost = {
        name: (before, after)
        for name, (before, after) in pairs.items()
        if before >= at.least and after < at.ratio * before and after < at.left
    }
    return dict(sorted(lost.items(), key=lambda pair: pair[1][1] - pair[1][0]))


def warning(shares: Shares) -> str:
    """The same as a line; empty if there are none."""
    lost = [f"{name} {100 * a:.1f} % -> {100 * b:.1f} %" for name, (a, b) in vanished(shares).items()]
    if len(lost) > MOST_TOLD:
        lost[MOST_TOLD:] = [f"{len(lost) - MOST_TOLD} more"]
    return f"classes that almost vanished: {', '.join(lost)}" if lost else ""


def warnings(runs: Path, rounds: Sequence[str]) -> dict[str, str]:
    """By the models of a run, as ``read_all`` names them, those lines that there are.

    Raises:
        InputError: damaged.
    """
    folders = {name: folder for name, folder in model_folders(runs, rounds).items() if (folder / SHARES).is_file()}
    told = {name: warning(read_shares(folder)) for name, folder in folders.items()}
    return {name: line for name, line in told.items() if line}
