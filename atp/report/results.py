"""The stages' results below ``runs/``, read once and typed, for the pictures and the page."""

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atp import runs as layout
from atp.data.folder import Sample, list_samples
from atp.data.labels import LabelSpace
from atp.errors import InputError
from atp.evaluation.evidence.record import Evidence, Figures, read_all
from atp.evaluation.evidence.vanished import warnings
from atp.evaluation.recommendation import Recommendation, recommend
from atp.params import Params
from atp.runs import BATCHNORM_ONLY, within


@dataclass(frozen=True)
class LabelRound:
    """Pseudo labels of one round; all in percent except thresholds, None without ground truth.

    Attributes:
        coverage: share of pixels with a positive label.
        accuracy: share of correct positive labels.
        negative_accuracy: share of correct negative labels.
        thresholds: per class, the minimum confidence of a label, 0-1; None for a class never predicted.
        accuracy_per_class: accuracy by labelled class.
    """

    coverage: float
    accuracy: float | None
    negative_accuracy: float | None
    thresholds: tuple[float | None, ...]
    accuracy_per_class: tuple[float | None, ...]


@dataclass(frozen=True)
class Ranking:
    """The target images from easy to hard.

    Attributes:
        samples: images in ascending order of entropy.
        entropy: normalised mean entropy of each, 0-1.
        easy: number of easy images.
    """

    samples: tuple[Sample, ...]
    entropy: tuple[float, ...]
    easy: int


@dataclass(frozen=True)
class Results:
    """A finished run.

    Attributes:
        params: the run's parameters.
        runs: the folder of its results.
        space: the classes.
        entropy: mean normalised entropy on the test images, 0-1, by model in the pipeline's order.
        miou: percent, by model; empty without labels.
        validation: mIoU on the validation images, percent, by model; empty without labels.
        protocols: percent, by protocol of ``data.protocols`` and model.
        iou: percent, by model and class; None for a class that the test images do not show.
        image_miou: percent, by model and image; empty without labels.
        image_entropy: 0-1, by model and image.
        confusion: pixel counts by model, (C, C), rows are true classes.
    """

    params: Params
    runs: Path
    space: LabelSpace
    entropy: Mapping[str, float]
    miou: Mapping[str, float]
    validation: Mapping[str, float]
    protocols: Mapping[str, Mapping[str, float]]
    iou: Mapping[str, Mapping[str, float | None]]
    image_miou: Mapping[str, Mapping[str, float]]
    image_entropy: Mapping[str, Mapping[str, float]]
    confusion: Mapping[str, NDArray[np.int64]]

    @property
    def labelled(self) -> bool:
        return bool(self.miou)

    @property
    def shown(self) -> list[str]:
        """The models whose predictions the pictures compare: of the rounds, the last and the recommended one."""
        rounds = {f"teach_{key}" for key in self.params.rounds} - {self.recommendation.model}
        return [name for name in self.entropy if name != BATCHNORM_ONLY and name not in rounds]

    @cached_property
    def recommendation(self) -> Recommendation:
        """The model to use, and why."""
        folders = layout.models(self.params.rounds, black_box=self.params.black_box)
        known = {name: within(self.runs, path) for name, path in folders.items() if name in self.entropy}
        measured = {"miou": self.miou, "validation": {"miou": self.validation}}
        return recommend(known, measured, self.evidence)

    @property
    def adapted(self) -> str:
        """The model that is compared with the first one: the recommended one, or the last if that is the first."""
        first, *_, last = self.shown
        return last if self.recommendation.model == first else self.recommendation.model

    @property
    def changes(self) -> dict[str, float]:
        """Gain in IoU from the first to the adapted model, percentage points, per class present in the test images."""
        first, last = next(iter(self.iou.values())), self.iou[self.adapted]
        pairs = ((name, first[name], last[name]) for name in self.space.names)
        return {name: after - before for name, before, after in pairs if before is not None and after is not None}

    @cached_property
    def test_samples(self) -> dict[str, Sample]:
        """The evaluated test images, by name.

        Raises:
            InputError: an image no longer exists.
        """
        names, data = self.image_entropy[self.adapted], self.params.data.test
        return _present(names, within(self.runs, layout.EVALUATE), data.images, data.labels)

    def prediction(self, model: str, name: str) -> Path:
        """Path of a model's prediction of a test image, a PNG of class ids."""
        return within(self.runs, layout.EVALUATE) / "predictions" / model / f"{name}.png"

    def label_rounds(self) -> dict[str, LabelRound]:
        """Labels by round, and under ``split`` those that propagate uses."""
        rounds = {}
        for key, row in _read(within(self.runs, layout.METRICS))["pseudo_labels"].items():
            folder = layout.SPLIT_LABELS if key == "split" else layout.dumped(key)
            table = _read(within(self.runs, folder / "table.json"))
            per_class = row.get("accuracy_per_class", {})
            rounds[key] = LabelRound(
                100 * row["coverage"],
                row.get("accuracy"),
                row.get("negative_accuracy"),
                tuple(entry["threshold"] for entry in table["classes"]),
                tuple(per_class.get(name) for name in self.space.names),
            )
        return rounds

    def ranking(self) -> Ranking:
        """The ranking by entropy; raises InputError if a ranked image no longer exists."""
        tree = _read(within(self.runs, layout.RANKING))
        names = [*tree["easy"], *tree["hard"]]
        samples = _present(names, within(self.runs, layout.SPLIT), self.params.data.target.images)
        return Ranking(tuple(samples.values()), tuple(tree["entropy"][name] for name in names), len(tree["easy"]))

    @cached_property
    def evidence(self) -> dict[str, Evidence]:
        """Evidence without labels, by model; empty for a run of an earlier version of ATP."""
        return read_all(self.runs, list(self.params.rounds))

    @property
    def indicators(self) -> dict[str, Figures]:
        """The indicators by model, preceded by those of the reference model; requires evidence."""
        start = "source" if "align" in self.evidence else "start"
        first = next(iter(self.evidence.values()))
        return {start: first["source"]} | {model: found["after"] for model, found in self.evidence.items()}

    @cached_property
    def vanished(self) -> dict[str, str]:
        """By model, one line on the classes that it hardly predicts any more, if any."""
        return warnings(self.runs, list(self.params.rounds))

    def histories(self) -> dict[str, dict[str, dict[str, list[float]]]]:
        """Columns of the training history, by stage and round (``""`` if the stage has no rounds)."""
        stages = [layout.DISTILL] if self.params.black_box else [layout.SOURCE, layout.ALIGN]
        folders = {folder.name: {"": folder} for folder in stages}
        folders["teach"] = {key: layout.taught(key) for key in self.params.rounds}
        folders["propagate"] = {"": layout.PROPAGATE}
        read: dict[str, dict[str, dict[str, list[float]]]] = {}
        for stage, rounds in folders.items():
            for key, folder in rounds.items():
                if columns := _columns(within(self.runs, folder / layout.HISTORY)):
                    read.setdefault(stage, {})[key] = columns
        return read


def read_results(params: Params, runs: Path) -> Results:
    """Read the results of ``evaluate`` and locate the others.

    Raises:
        InputError: the run is not finished.
    """
    files = (layout.METRICS, layout.EVALUATE / "images.json", layout.EVALUATE / "confusion.json")
    metrics, images, confusion = (_read(within(runs, file)) for file in files)
    try:
        return _results(params, runs, metrics, images, confusion)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        where = within(runs, layout.EVALUATE)
        raise InputError(f"{where}: damaged or of another version; run dvc repro --force evaluate") from error


def _results(params: Params, runs: Path, metrics: Any, images: Any, confusion: Any) -> Results:
    order = in_order(metrics["entropy"])
    miou = known(metrics["miou"])
    return Results(
        params=params,
        runs=runs,
        space=_label_space(params, runs),
        entropy={name: metrics["entropy"][name] for name in order},
        miou={name: miou[name] for name in order if name in miou},
        validation=known(metrics.get("validation", {}).get("miou", {})),
        protocols={protocol: known(values) for protocol, values in metrics.get("protocols", {}).items()},
        iou={name: metrics["iou"][name] for name in order if name in miou},
        image_miou={name: known(images[name]["miou"]) for name in order if name in miou},
        image_entropy={name: images[name]["entropy"] for name in order},
        confusion={name: np.array(confusion[name], np.int64) for name in order if name in miou},
    )


def _label_space(params: Params, runs: Path) -> LabelSpace:
    """For a black box, read from the results of ``query``: no later stage depends on the box's folder."""
    if not params.black_box:
        return params.data.label_space()
    table = _read(within(runs, layout.ANSWERS / "table.json"))
    return LabelSpace(tuple(table["classes"]), tuple((red, green, blue) for red, green, blue in table["colors"]))


def in_order(models: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """The models in the order of evaluation, with the baseline moved next to the source model."""
    order = [name for name in models if name != BATCHNORM_ONLY]
    return [*order[:1], BATCHNORM_ONLY, *order[1:]] if BATCHNORM_ONLY in models else order


def known(values: Mapping[str, float | None]) -> dict[str, float]:
    """Drop values that were not measured, for lack of a labelled pixel."""
    return {name: value for name, value in values.items() if value is not None and math.isfinite(value)}


def _present(names: Iterable[str], result: Path, images: Path, labels: Path | None = None) -> dict[str, Sample]:
    """The samples with these names, in order, which ``result`` was measured on."""
    samples = {sample.name: sample for sample in list_samples(images, labels)}
    for name in names:
        if name not in samples:
            raise InputError(
                f"{images}: no image {name}, which {result} was measured on: the images were changed after it "
                "was written; run dvc repro to update it"
            )
    return {name: samples[name] for name in names}


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; run dvc repro to finish the run first") from error
    except ValueError as error:
        raise InputError(f"{path}: damaged; delete its folder and run dvc repro") from error


def _columns(path: Path) -> dict[str, list[float]]:
    """Columns of a CSV by heading; empty if the file is missing, as for a given source model."""
    rows = list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []
    try:
        return {name: [float(row[name]) for row in rows] for name in rows[0]} if rows else {}
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: damaged; delete its folder and run dvc repro") from error
