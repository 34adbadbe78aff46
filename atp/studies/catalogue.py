"""Our own studies by name. Those with a number of the paper are in ``as_printed``.

A study consists of its rows (``contents``); a new study needs nothing else. It is computed on the data of params.yaml
or on one of ``testbeds``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from atp.data.settings import DataSettings
from atp.errors import InputError
from atp.method.settings import ALIGN as ALIGN_METHOD
from atp.params import Params, load_params
from atp.studies import contents
from atp.studies.definitions import HeldOut, Setting, Table
from atp.studies.testbeds import TESTBEDS

NONE: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Study:
    """What ``atp study NAME`` computes.

    Attributes:
        about: one line for the list of studies.
        table: makes its rows for the parameters.
        quick: has many runs, which are short.
    """

    about: str
    table: Callable[[Params], Table]
    quick: bool = False


STUDIES: Mapping[str, Study] = {
    "baselines": Study("ATP compared with other methods in place of align", contents.compared_baselines),
    "baselines-published": Study(
        "the same without a search, also from re-estimated BatchNorm", contents.published_baselines
    ),
    "black-box": Study("the source model as a black box and as a white box", contents.black_box),
    "parts": Study("ablation of the method's parts, and an oracle", contents.parts),
    "stages": Study("align, teach and propagate in and out, in equally many steps, and an oracle", contents.stages),
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
    "evidence": Study("good and broken runs, to test the verdict without labels", contents.evidence, quick=True),
}


def listing() -> str:
    """One line per study and per testbed."""
    about = {name: study.about for name, study in STUDIES.items()}
    beds = {name: testbed.about for name, testbed in TESTBEDS.items()}
    width = max(map(len, [*about, *beds]))
    lines = [f"{name:{width}}  {text}" for name, text in about.items()]
    return "\n".join([*lines, "", "on --testbed:", *(f"{name:{width}}  {text}" for name, text in beds.items())])


def study_named(name: str) -> Study:
    """A study by its name.

    Raises:
        InputError: no such study.
    """
    if name not in STUDIES:
        raise InputError(f"{name}: no such study; choose from {', '.join(STUDIES)}")
    return STUDIES[name]


def opened(name: str, values: Mapping[str, Any] = NONE, on: HeldOut = HeldOut.TEST) -> tuple[Table, Params]:
    """A study's rows and parameters.

    Args:
        values: parameters, by dotted name, that all rows override in params.yaml: those of a testbed.
        on: images to measure on; in the returned parameters, these are the test images.

    Raises:
        InputError: no such study, or it does not support these data and parameters.
    """
    return with_parameters(name, study_named(name).table, values, on)


def with_parameters(
    name: str, table: Callable[[Params], Table], values: Mapping[str, Any], on: HeldOut
) -> tuple[Table, Params]:
    """A table's rows and parameters for values that all rows override; ``name`` is for messages.

    Raises:
        InputError: the table does not support these data and parameters.
    """
    params = load_params(Path("params.yaml"), values)
    if on is HeldOut.VALIDATION:
        values = {**values, **exchanged(params.data)}
        params = load_params(Path("params.yaml"), values)
    own_align(name, params)
    return with_values(replace(table(params), on=on), values), params


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
