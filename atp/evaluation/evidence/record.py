"""``evidence.json``, which every training stage writes beside its model; readable without importing PyTorch."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from atp.errors import InputError
from atp.runs import models, within

Kind = TypeVar("Kind")

FILE = "evidence.json"
SHARES = "shares.json"

INDICATORS = (
    "augmentation_iou",
    "flip_iou",
    "scale_iou",
    "photometric_iou",
    "density",
    "entropy",
    "marginal_kl",
    "classes",
    "stability",
    "stability_iou",
)
"""Names of all indicators: see ``atp.evaluation.evidence.measure.indicators``."""

Verdict = Literal["improved", "unclear", "collapsed"]

Figures = dict[str, float]
"""Indicators by name: see ``atp.evaluation.evidence.measure.indicators``."""


class Evidence(TypedDict):
    """Measurements on unlabelled target images.

    Attributes:
        images: number of images.
        verdict: verdict on the stage's model.
        why: reason in one sentence.
        reverted: True if the stage's model collapsed, or was judged worse than the model from which the stage started,
            and the stage handed on that one.
        source: indicators of the source model; for a black box, of the distilled student.
        before: indicators of the model from which the stage started.
        after: indicators of the model that the stage saved.
    """

    images: int
    verdict: Verdict
    why: str
    reverted: bool
    source: Figures
    before: Figures
    after: Figures


Shares = dict[str, dict[str, float]]
"""Mean probability of each class by name, for ``source`` and ``after``."""


def read_evidence(folder: Path) -> Evidence:
    """Read the evidence in a training stage's folder.

    Raises:
        InputError: if the file is missing or damaged.
    """
    return _read(folder / FILE, TypeAdapter(Evidence))


def read_shares(folder: Path) -> Shares:
    """Read the class shares in a training stage's folder; raises like ``read_evidence``."""
    return _read(folder / SHARES, TypeAdapter(Shares))


def read_all(runs: Path, rounds: Sequence[str]) -> dict[str, Evidence]:
    """Read the evidence of all training stages in order, by the names that ``evaluate`` gives their models.

    Args:
        runs: folder of a run; stages without evidence are skipped.
        rounds: keys of the rounds.

    Raises:
        InputError: if a file is damaged.
    """
    folders = model_folders(runs, rounds)
    return {name: read_evidence(folder) for name, folder in folders.items() if (folder / FILE).is_file()}


def model_folders(runs: Path, rounds: Sequence[str]) -> dict[str, Path]:
    """Model folders of the training stages of both pipelines, by the names that ``evaluate`` gives the models."""
    both = models(rounds, black_box=True) | models(rounds, black_box=False)
    names = ("align", "distill", *(name for name in both if name.startswith("teach")), "propagate")
    return {name: within(runs, both[name]) for name in names}


def write_evidence(folder: Path, evidence: Evidence, shares: Shares) -> None:
    """Write both files; equal contents give equal bytes."""
    contents: dict[str, Mapping[str, object]] = {FILE: evidence, SHARES: shares}
    for name, tree in contents.items():
        (folder / name).write_text(json.dumps(tree, indent=2) + "\n")


def _read(path: Path, kind: "TypeAdapter[Kind]") -> Kind:
    try:
        return kind.validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; run the stage that writes it") from error
    except ValidationError as error:
        raise InputError(f"{path}: damaged or of another version; delete its folder and run dvc repro") from error
