"""Pairs of domains on which a study can be computed instead of the data of params.yaml, with settings for them."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atp.datasets.camvid import DAYLIGHT, DUSK
from atp.datasets.idd_lite import IDD_LITE
from atp.datasets.pairs import prepare
from atp.datasets.published import DataSet
from atp.errors import InputError
from atp.studies.definitions import HeldOut
from atp.training.settings import with_length

DOWNLOADS = {DAYLIGHT.name: "camvid", DUSK.name: "camvid", IDD_LITE.name: "idd_lite"}
"""The folder that holds a data set, as ``Where.roots`` names it."""


@dataclass(frozen=True)
class Testbed:
    """Data and parameters in place of those of params.yaml.

    Attributes:
        about: one line for the list.
        values: parameters, by dotted name.
        quick: more of them, for studies of many short runs.
        pair: source and target, prepared once below ``.atp``; None for the data of params.yaml.
    """

    about: str
    values: Mapping[str, Any] = field(default_factory=dict)
    quick: Mapping[str, Any] = field(default_factory=dict)
    pair: tuple[DataSet, DataSet] | None = None


def _augmentation(section: str, jitter: float) -> dict[str, Any]:
    entries = {"flip": True, "jitter": jitter, "blur": True, "scale": [0.75, 1.5]}
    return {f"{section}.augmentation.{name}": value for name, value in entries.items()}


def _lengths(unit: str, **sections: int) -> dict[str, Any]:
    """Lengths of some sections in epochs or steps, in place of their own."""
    lengths = {section: with_length({unit: count}) for section, count in sections.items()}
    return {f"{section}.{name}": value for section, length in lengths.items() for name, value in length.items()}


QUICK: Mapping[str, Any] = {
    "dump.flip": False,
    "dump.scales": [1.0],
    "evidence.images": 48,
    **_lengths("epochs", source=8, align=1, teach=1, propagate=1),
    "teach.warmup_steps": 10,
}
"""Short trainings of about a minute."""

ROBUST = {"source.augmentation.jitter": 0.35, "source.augmentation.blur": True}
"""Strong photometric augmentation, which makes the source model robust and leaves less to gain by adaptation."""

DUSK_VALUES: Mapping[str, Any] = {
    "data.size": [240, 180],
    "data.crop": [192, 144],
    # The 44 images make few steps an epoch.
    **_lengths("steps", source=2000, align=100, teach=100, propagate=100),
    # Of .35, .6 and .9, .6 gave the best source model.
    **_augmentation("source", 0.6),
    **_augmentation("align", 0.3),
    "teach.lr": 0.005,
    "teach.warmup_steps": 30,
    "teach.negative": 0.2,
    **_augmentation("teach", 0.3),
    "propagate.lr": 0.005,
    **_augmentation("propagate", 0.3),
}

QUICK_DUSK: Mapping[str, Any] = {
    **QUICK,
    "data.size": [160, 120],
    "data.crop": [128, 96],
    **_lengths("steps", source=500, align=40, teach=40, propagate=24),
}

ROADS: Mapping[str, Any] = {
    "data.size": [256, 192],
    "model.backbone": "efficientnet_lite0",
    "model.output_stride": 16,
    "model.aspp_dilations": [1, 2, 4, 6],
    "model.weights": "imagenet",
    # As its ImageNet weights were trained.
    "model.mean": [0.498] * 3,
    "model.std": [0.502] * 3,
    **_lengths("steps", source=600, align=120, teach=240, propagate=240),
    "source.lr": 0.01,
    "source.classifier_lr_factor": 10.0,
    "source.augmentation.jitter": 0.4,
    "source.augmentation.blur": True,
    "align.lr": 0.001,
    "teach.lr": 0.002,
    "propagate.lr": 0.002,
}
"""Driving images of two countries, with ImageNet weights."""

IN_STEPS: Mapping[str, Any] = _lengths("steps", align=100, teach=100, propagate=120)
"""The epochs of params.yaml on the 200 target images of streets."""

TESTBEDS: Mapping[str, Testbed] = {
    "streets": Testbed("the data of params.yaml, the length of each stage in steps", IN_STEPS, QUICK),
    "robust": Testbed(
        "the same, with a source model trained with strong colour jitter and blur", {**IN_STEPS, **ROBUST}, QUICK
    ),
    "camvid-dusk": Testbed("CamVid, daylight to dusk, at 240x180", DUSK_VALUES, QUICK_DUSK, (DAYLIGHT, DUSK)),
    "camvid-idd": Testbed(
        "CamVid's daylight (United Kingdom) to IDD-lite (India), at 256x192", ROADS, {}, (DAYLIGHT, IDD_LITE)
    ),
    "idd-camvid": Testbed("the reverse", ROADS, {}, (IDD_LITE, DAYLIGHT)),
}


def testbed_named(name: str) -> Testbed:
    """A testbed by its name; for the empty name, the data and settings of params.yaml.

    Raises:
        InputError: no such testbed.
    """
    if not name:
        return Testbed("the data of params.yaml", quick=QUICK)
    if name not in TESTBEDS:
        raise InputError(f"{name}: no such testbed; choose from {', '.join(TESTBEDS)}")
    return TESTBEDS[name]


def parameters(name: str, roots: Mapping[str, Path], *, quick: bool = False) -> dict[str, Any]:
    """The parameters of a testbed, whose data are prepared once.

    Args:
        roots: as in ``Where``.
        quick: for a study of many short runs.

    Raises:
        InputError: no such testbed, or a download is not where it should be.
    """
    testbed = testbed_named(name)
    values = {**testbed.values, **(testbed.quick if quick else {})}
    if testbed.pair is None:
        return values
    source, target = testbed.pair
    # A full path, since DVC's working copies for the cells are elsewhere.
    folder = Path(".atp", name).resolve()
    if not (folder / HeldOut.VALIDATION).exists():
        # Those prepared before there were validation images have other test images.
        shutil.rmtree(folder, ignore_errors=True)
        prepare(source, roots[DOWNLOADS[source.name]], target, roots[DOWNLOADS[target.name]], folder)
    return {**in_folder(folder), **values}


def in_folder(folder: Path) -> dict[str, Any]:
    """The section ``data`` for a folder with ``source``, ``target``, ``test`` and ``validation``, all labelled."""
    values: dict[str, Any] = {"data.root": str(folder), "data.source.root": str(folder / "source")}
    for part in ("target", "test"):
        values |= {f"data.{part}.{kind}": str(folder / part / kind) for kind in ("images", "labels")}
    # As a whole, since params.yaml may have null here.
    values["data.validation"] = {kind: str(folder / HeldOut.VALIDATION / kind) for kind in ("images", "labels")}
    return {**values, "data.classes": str(folder / "source/classes.yaml"), "data.class_map": None}
