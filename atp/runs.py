"""Paths of a pipeline's results below the folder of its dvc.yaml, defined only here.

A folder is named after its stage and, for a stage with rounds, the round's key: ``runs/teach/r01``.
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

CODE = RUNS / "code.json"
"""In a project outside this repository: digests of the code behind its stages."""

ORIGIN = Path("origin.json")
"""In such a project: what it was made from."""

RANKING = SPLIT / "ranking.json"
SPLIT_LABELS = SPLIT / "labels"
"""Pseudo labels of all images, from the model that ranks them."""
ANSWERS = RUNS / "query/target"
"""A black box's predictions for the target images."""
ANSWERS_ON_TEST = RUNS / "query/test"
"""Its predictions for the test images, from which its own mIoU is computed."""
METRICS = EVALUATE / "metrics.json"

BATCHNORM_ONLY = "batchnorm_only"
"""Name in the metrics of the source model with re-estimated BatchNorm statistics, which no stage saves."""

MODEL = "model.safetensors"
"""File name of a training stage's model."""
OPTIMIZER = "optimizer.safetensors"
"""File name of the state that a round of teach hands on to the next one: see ``atp.training.carried``."""
HISTORY = "history.csv"
"""File name of its mean losses."""


def dumped(key: str) -> Path:
    """Folder of a round's pseudo labels."""
    return folder("dump", key)


def taught(key: str) -> Path:
    """Folder of a round's model."""
    return folder("teach", key)


def folder(stage: str, key: str | None = None) -> Path:
    """Folder of a stage's results.

    Args:
        key: the round's key, for stages with rounds.
    """
    return RUNS / stage / (key or "")


def within(runs: Path, path: Path) -> Path:
    """Translate a path below ``RUNS`` to another runs folder."""
    return runs / path.relative_to(RUNS)


def models(rounds: Iterable[str], *, black_box: bool) -> dict[str, Path]:
    """Folders of a pipeline's models in training order, by the names used in metrics.

    Args:
        rounds: keys; the last round's model is named ``teach``, earlier ones ``teach_KEY``.
        black_box: the pipeline has a distilled student instead of source and align.
    """
    *earlier, last = rounds
    first = {"distill": DISTILL} if black_box else {"source": SOURCE, "align": ALIGN}
    return {**first, **{f"teach_{key}": taught(key) for key in earlier}, "teach": taught(last), "propagate": PROPAGATE}


def is_run(folder: Path) -> bool:
    """Whether a folder contains the results of a pipeline's stages."""
    return any((within(folder, path) / MODEL).is_file() for path in (SOURCE, ALIGN, DISTILL, PROPAGATE))
