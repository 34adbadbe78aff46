"""Where a pipeline's results lie, below the folder of its dvc.yaml: the one place that knows.

A stage's folder has its name, and of a stage with rounds the round's key: ``runs/teach/r01``.
"""

from collections.abc import Iterable
from pathlib import Path

RUNS = Path("runs")

SOURCE = RUNS / "source"
ALIGN = RUNS / "align"
DISTILL = RUNS / "distill"
SPLIT = RUNS / "split"
PROPAGATE = RUNS / "propagate"
EVALUATE = RUNS / "evaluate"
REPORT = RUNS / "report"
REGISTER = RUNS / "register"

RANKING = SPLIT / "ranking.json"
SPLIT_LABELS = SPLIT / "labels"
"""Pseudo labels of all images, by the model that ranked them."""
ANSWERS = RUNS / "query/target"
"""What a black box answered about the target images."""
ANSWERS_ON_TEST = RUNS / "query/test"
"""The same about the test images, for the box's own mIoU."""
METRICS = EVALUATE / "metrics.json"

MODEL = "model.safetensors"
"""A training stage's model in its folder."""
HISTORY = "history.csv"
"""Means of its losses."""


def dumped(key: str) -> Path:
    """A round's pseudo labels."""
    return folder("dump", key)


def taught(key: str) -> Path:
    """A round's model."""
    return folder("teach", key)


def folder(stage: str, key: str | None = None) -> Path:
    """Where a stage puts its result.

    Args:
        key: of the round, for stages that have rounds.
    """
    return RUNS / stage / (key or "")


def within(runs: Path, path: Path) -> Path:
    """Where another folder than ``RUNS`` has what lies at ``path``."""
    return runs / path.relative_to(RUNS)


def models(rounds: Iterable[str], *, black_box: bool) -> dict[str, Path]:
    """The models of a pipeline in the order in which they are made, by the names that figures give them.

    Args:
        rounds: their keys; the last round's model is called ``teach``, earlier ones ``teach_KEY``.
        black_box: there is no source model, and a student in the place of align.
    """
    *earlier, last = rounds
    first = {"distill": DISTILL} if black_box else {"source": SOURCE, "align": ALIGN}
    return {**first, **{f"teach_{key}": taught(key) for key in earlier}, "teach": taught(last), "propagate": PROPAGATE}
