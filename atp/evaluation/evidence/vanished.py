"""Warning about classes that a model almost no longer predicts, which a mean over classes hides.

This is not part of the verdict, since shares also change in good runs, above all for classes that the source model
over-predicts. docs/explanation/evidence.md lists the runs from which the limits were derived.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from atp.evaluation.evidence.record import SHARES, Shares, model_folders, read_shares


@dataclass(frozen=True)
class Limits:
    """Conditions under which a class has almost vanished.

    Attributes:
        ratio: its share has fallen below this multiple of its share by the source model.
        left: its share is below this share of all pixels, even if the source model over-predicted it.
        least: its share by the source model is at least this; lower shares are noise.
    """

    ratio: float = 0.2
    left: float = 0.01
    least: float = 0.001


LIMITS = Limits()

MOST_TOLD = 8
"""Maximum number of classes listed in a warning."""


def vanished(shares: Shares, at: Limits = LIMITS) -> dict[str, tuple[float, float]]:
    """Classes that almost vanished, with their shares by the source model and by this one, largest loss first."""
    pairs = {name: (before, shares["after"][name]) for name, before in shares["source"].items()}
    lost = {
        name: (before, after)
        for name, (before, after) in pairs.items()
        if before >= at.least and after < at.ratio * before and after < at.left
    }
    return dict(sorted(lost.items(), key=lambda pair: pair[1][1] - pair[1][0]))


def warning(shares: Shares) -> str:
    """Warning about vanished classes in one line; empty if there are none."""
    lost = [f"{name} {100 * a:.1f} % -> {100 * b:.1f} %" for name, (a, b) in vanished(shares).items()]
    if len(lost) > MOST_TOLD:
        lost[MOST_TOLD:] = [f"{len(lost) - MOST_TOLD} more"]
    return f"classes that almost vanished: {', '.join(lost)}" if lost else ""


def warnings(runs: Path, rounds: Sequence[str]) -> dict[str, str]:
    """Warnings of a run's models, by their names as in ``read_all``; models without a warning are left out.

    Raises:
        InputError: if a file is damaged.
    """
    folders = {name: folder for name, folder in model_folders(runs, rounds).items() if (folder / SHARES).is_file()}
    told = {name: warning(read_shares(folder)) for name, folder in folders.items()}
    return {name: line for name, line in told.items() if line}
