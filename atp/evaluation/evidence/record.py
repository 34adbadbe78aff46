"""``evidence.json``, as every training stage leaves it beside its model; without PyTorch, for who only reads it."""

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
"""All that are measured of every model: see ``atp.evaluation.evidence.measure.indicators``."""

Verdict = Literal["improved", "unclear", "collapsed"]

Figures = dict[str, float]
"""Indicators by name: see ``atp.evaluation.evidence.measure.indicators``."""


class Evidence(TypedDict):
    """What was measured on unlabelled target images.

    Attributes:
        images: how many.
        verdict: on what the stage made.
        why: one sentence.
        reverted: what the stage made had collapsed, and the model that it began with is handed on instead.
        source: of the source model; of a black box, of the student that was distilled from it.
        before: of the model that the stage began with.
        after: of the model that it hands on.
    """

    images: int
    verdict: Verdict
    why: str
    reverted: bool
    source: Figures
    before: Figures
    after: Figures


Shares = dict[str, dict[str, float]]
"""Of ``source`` and ``after`` the mean probability of each class, by its name."""


def read_evidence(folder: Path) -> Evidence:
    """What a training stage left in its folder.

    Raises:
        InputError: it is not there, or damaged.
    """
    return _read(folder / FILE, TypeAdapter(Evidence))


def read_shares(folder: Path) -> Shares:
    """The classes' shares beside it; raises as ``read_evidence``."""
    return _read(folder / SHARES, TypeAdapter(Shares))


def read_all(runs: Path, rounds: Sequence[str]) -> dict[str, Evidence]:
    """What the training stages of a run left, in their order, by the names that ``evaluate`` gives their models.

    Args:
        runs: a run of the first stages alone has fewer, one of an earlier version none.
        rounds: their keys.

    Raises:
        InputError: damaged.
    """
    folders = model_folders(runs, rounds)
    return {name: read_evidence(folder) for name, folder in folders.items() if (folder / FILE).is_file()}


def model_folders(runs: Path, rounds: Sequence[str]) -> dict[str, Path]:
    """Where the training stages of either pipeline leave their models, by the names that ``evaluate`` gives these."""
    both = models(rounds, black_box=True) | models(rounds, black_box=False)
    names = ("align", "distill", *(name for name in both if name.startswith("teach")), "propagate")
    return {name: within(runs, both[name]) for name in names}


def write_evidence(folder: Path, evidence: Evidence, shares: Shares) -> None:
    """Both files; equal contents give equal bytes."""
    contents: dict[str, Mapping[str, object]] = {FILE: evidence, SHARES: shares}
    for name, tree in contents.items():
        (folder / name).write_text(json.dumps(tree, indent=2) + "\n")


def _read(path: Path, kind: "TypeAdapter[Kind]") -> Kind:
    try:
        return kind.validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; run the stage that makes it") from error
    except ValidationError as error:
        raise InputError(f"{path}: damaged, or of another version; delete its folder and run dvc repro") from error
