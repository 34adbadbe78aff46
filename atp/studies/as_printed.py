"""The paper's Tables 1 to 9 and Figures 4 to 6: which of their rows are computed here, and by which settings.

Rows, columns and figures of the print are in ``paper.yaml``. Settings that a row does not name are those of
params.yaml, so ``presets/paper.yaml`` gives the paper's; but the student of Table 4 and what follows it have those of
black_box/params.yaml.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from atp import runs
from atp.datasets.label_maps import CLASS_SETS
from atp.errors import InputError
from atp.models.config import OUTPUT_STRIDES
from atp.params import Params, needed
from atp.studies.contents import baseline, black, has_batchnorm, renewed, taught
from atp.studies.definitions import ALIGN, PROPAGATE, SOURCE, Place, Row, Table, row
from atp.studies.paper import class_columns, printed, printed_figure, title

CITIES = ("Rome", "Rio", "Tokyo", "Taipei")
"""Targets of Table 3."""

_URMA = " URMA here has its published settings, which other data may not suit; searched ones: atp study baselines."

Rows = Callable[[Params], Iterator[Row]]
"""What is computed for a table; each row stands beside a printed row or cell."""

HERE = "data of params.yaml"
"""Stands for the city in Table 3 if the target is none of them."""

_CAPTION = (
    "Figures of: paper, as printed; here, measured on the data of params.yaml, mean and standard deviation of the "
    "seeds, empty for a class that these data lack. Rows of the paper alone are methods that train on source "
    "images, too, or that this project does not have."
)


def _table(number: int, rows: Rows) -> Callable[[Params], Table]:
    def make(params: Params) -> Table:
        made = tuple(rows(params))
        caption = _CAPTION + (_URMA if any(row.place and row.place.row == "URMA" for row in made) else "")
        name = f"Table {number}: {title('tables', number)}"
        return Table(name, caption, made, _measures(number, params), kind="printed", number=number)

    return make


def _measures(number: int, params: Params) -> tuple[tuple[str, str], ...]:
    """mIoU over the table's classes, and mIoU* of Table 2 if ``data.protocols`` has its 13 classes."""
    sets = {frozenset(names): name for name, names in params.data.protocols.items()}
    # Over all classes if the data have no such set, as on other data than the paper's.
    measures = [("mIoU", sets.get(frozenset(class_columns(number)), ""))]
    if number == 2 and (name := sets.get(frozenset(CLASS_SETS[13]))):
        measures.append(("mIoU*", name))
    return tuple(measures)


def _at(name: str, model: str, values: Mapping[str, Any] | None = None, *, column: str = "", city: str = "") -> Row:
    """A row beside the printed row of this name; beside one of its cells if ``column`` is given."""
    called = ", ".join(part for part in (city, name, column) if part)
    return row(called, model, values, place=Place(name, column, city))


def _methods(params: Params, city: str = "", values: Mapping[str, Any] | None = None) -> Iterator[Row]:
    """The rows of Tables 1 to 3."""
    values = values or {}
    if has_batchnorm(params):
        yield _urma(city, values)
    yield _at("ATP (w/o TP)", ALIGN, values, city=city)
    yield _at("ATP (w/o P)", taught(params), values, city=city)
    yield _at("ATP", PROPAGATE, values, city=city)


def _urma(city: str = "", values: Mapping[str, Any] | None = None) -> Row:
    return _at("URMA", ALIGN, {**(values or {}), **baseline("baselines/urma")}, city=city)


def _cities(params: Params) -> Iterator[Row]:
    """Table 3: the target's folder is a city, and the other cities are beside it; or the target is another data set."""
    root = params.data.root
    if root.name not in CITIES:
        yield from _methods(params, HERE)
        return
    for city in CITIES:
        if root.with_name(city).is_dir() or city == root.name:
            yield from _methods(params, city, _other_root(params, root.with_name(city)))


def _other_root(params: Params, root: Path) -> dict[str, Any]:
    """Target and test images in another folder with the same layout; the source data stay.

    Raises:
        InputError: they are not below ``data.root``, so where those of another city are is unknown.
    """
    data, values = params.data, {}
    if root == data.root:
        return {}
    for part, entry in (("target", data.target), ("test", data.test)):
        for kind, path in (("images", entry.images), ("labels", entry.labels)):
            if path is None:
                continue
            if not path.is_relative_to(data.root):
                raise InputError(f"params.yaml: data.{part}.{kind}: {path} is not below data.root, {data.root}")
            values[f"data.{part}.{kind}"] = str(root / path.relative_to(data.root))
    return {"data.root": str(root), **values}


def _black_box(params: Params) -> Iterator[Row]:
    """Table 4: the source model as a black box; jitter and blur, in all stages, belong to the last row alone."""
    box = black(params)
    off = {"jitter": 0.0, "blur": False}
    plain = box | {
        f"black_box/params.yaml:{stage}.augmentation.{name}": value
        for stage in ("distill", "teach", "propagate")
        for name, value in off.items()
    }
    if has_batchnorm(params):
        yield _urma()
    yield _at("Baseline", f"black_box/{runs.DISTILL}", plain)
    # The only round of black_box/params.yaml.
    yield _at("ATP (w/o P)", f"black_box/{runs.taught('r01')}", plain)
    yield _at("ATP", f"black_box/{runs.PROPAGATE}", plain)
    yield _at("ATP (aug)", f"black_box/{runs.PROPAGATE}", box)


def _ablation(params: Params) -> Iterator[Row]:
    """Table 5."""
    yield _at("Baseline", SOURCE)
    yield _at("(a)", ALIGN, {"align.diversity": 0.0})
    yield _at("(b)", ALIGN)
    yield _at("(c)", ALIGN, {"align.weighted": False})
    yield _at("(d)", taught(params), {"teach.negative": 0.0})
    yield _at("(e)", taught(params))
    yield _at("(f)", PROPAGATE)


def _mixes(params: Params) -> Iterator[Row]:
    """Table 6: the first column, (e) of Table 5, does not depend on the ratio."""
    mixes = {"CutMix [113]": "cut_mix", "ClassMix [70]": "class_mix", "ReCo [56]": "reco"}
    for ratio in ("0.5", "0.3"):
        yield _at(ratio, taught(params), column="Baseline")
        for column, mix in mixes.items():
            values = {"split.easy_ratio": float(ratio), "propagate.mix": mix}
            yield _at(ratio, PROPAGATE, values, column=column)


def _vgg16(params: Params) -> Iterator[Row]:
    """Table 7: with another network in params.yaml, the same settings with VGG-16, which has other output strides."""
    if not params.model.ours:
        raise InputError("table 7: needs VGG-16, unlike your own network in params.yaml; use presets/paper-vgg16.yaml")
    values: dict[str, Any] = {} if params.model.backbone == "vgg16" else {"model.backbone": "vgg16"}
    if params.model.output_stride not in OUTPUT_STRIDES["vgg16"]:
        values["model.output_stride"] = OUTPUT_STRIDES["vgg16"][0]
    yield _at("Baseline", SOURCE, values)
    yield _at("ATP (Ours)", PROPAGATE, values)


def _positives(params: Params) -> Iterator[Row]:
    """Table 8: positive labels alone, since its .65 has the figure of (d) of Table 5."""
    for column in printed(8)[0].values:
        values = {"dump.keep_ratio": float(column), "teach.negative": 0.0}
        yield _at("mIoU", taught(params), values, column=column)


def _sharpness(params: Params) -> Iterator[Row]:
    """Table 9."""
    for column in printed(9)[0].values:
        yield _at("mIoU", ALIGN, {"align.sharpness": float(column)}, column=column)


def _predictions(params: Params) -> Table:
    """Figure 4."""
    models = (SOURCE, ALIGN, taught(params), PROPAGATE)
    columns = printed_figure(4).columns[2:]
    return Table(
        f"Figure 4: {title('figures', 4)}",
        "The best, the median and the worst test image by the last model's mIoU, among those with stored predictions, "
        "for the first seed. The paper's images are a selection that its text does not explain.",
        tuple(row(name, model) for name, model in zip(columns, models, strict=True)),
        kind="pictures",
    )


def _curriculum(params: Params) -> Table:
    """Figure 5."""
    align, shown = needed(params.align, "align"), printed_figure(5)
    chosen = shown.chosen["alpha"]
    rows = []
    for alpha in shown.varied["alpha"]:
        own = align.alpha * alpha / chosen
        name = f"alpha = {own:g}" if own == alpha else f"alpha = {own:g} (printed {alpha:g})"
        values = {} if alpha == chosen else {"align.alpha": own}
        rows.append(row(name, ALIGN, values, curve="alpha", at=own, default=alpha == chosen))
    for gamma in shown.varied["gamma"]:
        values = {"align.gamma": float(gamma)}
        rows.append(row(f"gamma = {gamma:g}", ALIGN, values, curve="gamma", at=gamma, default=gamma == align.gamma))
    return Table(
        f"Figure 5: {title('figures', 5)}",
        "Measured at align, which the text does not say; one parameter at a time, the other as in params.yaml. The "
        "printed alphas are .001, .002 and .003; where params.yaml has another alpha than .002, "
        f"they are scaled with it. The paper prints no values; its text: {shown.says}.",
        tuple(rows),
        kind="curves",
    )


def _negatives(params: Params) -> Table:
    """Figure 6: rounds of one epoch; the limit 1/C, which would make thresholds equal, is off."""
    shown = printed_figure(6)
    epochs = [int(epoch) for epoch in shown.varied["epoch"]]
    values = {**renewed(epochs[-1]), "dump.negative_cap": False}
    rows = []
    for threshold in shown.varied["lambda_neg"]:
        name = f"lambda_neg = {threshold:g}"
        for epoch in epochs:
            model = str(runs.taught(f"r{epoch:02}")) if epoch else ALIGN
            own = {**values, "dump.negative_threshold": threshold} if epoch else {}
            rows.append(row(f"{name}, epoch {epoch}", model, own, curve=name, at=epoch))
    return Table(
        f"Figure 6: {title('figures', 6)}",
        "Each epoch is a round: new labels, positive and negative, then one epoch of teach with a schedule of its own. "
        "Epoch 0 is align. The most probable class of a pixel is never negative. The paper prints no values; its text: "
        f"{shown.says}.",
        tuple(rows),
        kind="overlaid",
    )


NUMBERS: Mapping[str, Mapping[int, Callable[[Params], Table]]] = {
    "table": {
        number: _table(number, rows)
        for number, rows in enumerate(
            (_methods, _methods, _cities, _black_box, _ablation, _mixes, _vgg16, _positives, _sharpness), 1
        )
    },
    "figure": {4: _predictions, 5: _curriculum, 6: _negatives},
}
"""All tables and figures by number: each makes its rows for the parameters, or raises ``InputError``."""
