"""The rows of the studies, as data: to change a study, change its rows here.

Rows are few, since each is trained for each seed; rows with the same parameters share their computation across studies.
``catalogue`` names the studies. The paper's tables and figures are in ``as_printed``.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from atp import runs
from atp.method.choice import BaselineSettings, method_named
from atp.method.settings import ALIGN as ALIGN_METHOD
from atp.method.settings import align_methods
from atp.params import Params, needed
from atp.studies.definitions import ALIGN, PROPAGATE, SOURCE, Row, Setting, Table, row
from atp.training.settings import with_length

NO_CHANGE: dict[str, Any] = {
    "align.epochs": 1,
    "align.steps": None,
    "align.alpha": 0.0,
    "align.diversity": 0.0,
    "align.weight_decay": 0.0,
    "align.batchnorm": "eval",
}
"""An align that returns the source model unchanged, so that propagation can start from it."""


def taught(params: Params) -> str:
    """Folder of the last round's model."""
    return str(runs.taught(list(params.rounds)[-1]))


def has_batchnorm(params: Params) -> bool:
    """False for VGG-16, our only network without BatchNorm; a user's own network is checked at run time."""
    return not params.model.ours or params.model.backbone != "vgg16"


def baselines(params: Params) -> dict[str, type[BaselineSettings]]:
    """Methods that can replace align for this network, with their settings, simplest first."""
    kinds = {name: method_named(name).Settings for name in align_methods() if name != ALIGN_METHOD}
    found = {name: kind for name, kind in kinds.items() if issubclass(kind, BaselineSettings)}
    usable = {name: kind for name, kind in found.items() if has_batchnorm(params) or not kind.needs_batchnorm}
    return dict(sorted(usable.items(), key=lambda pair: (pair[1].trains, not pair[1].needs_batchnorm, pair[0])))


def baseline(method: str, **settings: Any) -> dict[str, Any]:
    """Parameters for a baseline in place of align; settings that are not given are the published ones."""
    return {"align.method": method} | {f"align.baseline.{name}": value for name, value in settings.items()}


def baseline_rows(params: Params) -> Iterable[Row]:
    """Each baseline at its published settings, also from re-estimated BatchNorm, and at searched ones."""
    starts = [{}, {"reestimate_batchnorm": True}] if has_batchnorm(params) else [{}]
    for method, kind in baselines(params).items():
        name = kind.title or method
        yield Row(name, (Setting(ALIGN, baseline(method)),))
        if kind.trains:
            tries = [baseline(method, **start, **other) for start in starts for other in ({}, *kind.strengths())]
            yield from (
                Row(f"{name}, from re-estimated BatchNorm", (Setting(ALIGN, baseline(method, **start)),))
                for start in starts[1:]
            )
            yield from searched(name, tries)


def searched(name: str, tries: Iterable[Mapping[str, Any]]) -> Iterable[Row]:
    """A method at the best of its tries, chosen in two ways."""
    settings = tuple(Setting(ALIGN, values) for values in tries)
    yield Row(f"{name}, searched by labels", settings, "labels")
    yield Row(f"{name}, searched without labels", settings, "evidence")


def own_tries(params: Params) -> list[dict[str, Any]]:
    """As many tries for ATP's align as a baseline has: learning rates, and weights of the diversity."""
    align = needed(params.align, "align")
    # Without BatchNorm, a baseline has half as many.
    factors = (1.0, 0.3) if has_batchnorm(params) else (1.0,)
    return [
        {"align.lr": align.lr * factor, "align.diversity": diversity}
        for factor in factors
        for diversity in (1.0, 0.3, 0.1, 0.03)
    ]


def batchnorm_only(params: Params, name: str = "BatchNorm only") -> list[Row]:
    """The row for re-estimated BatchNorm statistics alone; empty for a network without BatchNorm."""
    return [row(name, ALIGN, baseline("baselines/batchnorm"))] if has_batchnorm(params) else []


def compared_baselines(params: Params) -> Table:
    """Baselines, on any data, also by the sets of classes in ``data.protocols``."""
    return Table(
        "Baselines",
        "A baseline takes the place of align, on the same source model, images and network, at its published settings, "
        "the learning rate scaled as ATP's is (docs/reference/baselines.md). Searched: the best of the same number of "
        "tries for each method, at four strengths, from the source model's and from re-estimated BatchNorm statistics; "
        "tried with another seed and chosen on the validation images, or, without labels, by agreement over scales. "
        "ATP's tries are two learning rates and four weights of the diversity.",
        (
            row("source", SOURCE),
            *baseline_rows(params),
            *searched("ATP: align", own_tries(params)),
            row("ATP: align, as in params.yaml", ALIGN),
            row("ATP: align, teach, propagate, as in params.yaml", PROPAGATE),
        ),
        columns=(("mIoU", ""), *((name, name) for name in params.data.protocols)),
    )


def published_baselines(params: Params) -> Table:
    """The same without a search."""
    whole = compared_baselines(params)
    return replace(
        whole,
        title="Baselines at their published settings",
        caption="A baseline takes the place of align, on the same source model, images and network, at its published "
        "settings, the learning rate scaled as ATP's is (docs/reference/baselines.md); where it trains, also from "
        "re-estimated BatchNorm statistics.",
        rows=tuple(row for row in whole.rows if not row.pick),
    )


def black(params: Params) -> dict[str, Any]:
    """Parameters of black_box/ for a box that is this pipeline's source model, queried with the same images."""

    def beside(path: Path) -> str:
        return os.path.relpath(path, "black_box")

    data, answers = params.data, f"../{runs.folder('answer')}"
    values: dict[str, Any] = {
        "data.source.root": answers,
        "data.classes": f"{answers}/classes.yaml",
        "query.box": "folder",
        "query.folder": answers,
        "query.endpoint": None,
        "data.size": None if data.size is None else list(data.size),
        "data.crop": None if data.crop is None else list(data.crop),
        "data.window": None if data.window is None else list(data.window),
    }
    for part, entry in (("target", data.target), ("test", data.test)):
        values[f"data.{part}.images"] = beside(entry.images)
        values[f"data.{part}.labels"] = None if entry.labels is None else beside(entry.labels)
    # As a whole, since either file may have null here.
    values["data.validation"] = (
        None
        if data.validation is None
        else {
            "images": beside(data.validation.images),
            "labels": None if data.validation.labels is None else beside(data.validation.labels),
        }
    )
    return {f"black_box/params.yaml:{name}": value for name, value in values.items()}


def black_box(params: Params) -> Table:
    """The black box."""
    box = black(params)
    augmentation = "black_box/params.yaml:distill.augmentation"
    flip = box | {f"{augmentation}.jitter": 0.0, f"{augmentation}.blur": False}
    stages = (
        ("student", f"black_box/{runs.DISTILL}"),
        # The only round of black_box/params.yaml.
        ("+ teach", f"black_box/{runs.taught('r01')}"),
        ("+ propagate", f"black_box/{runs.PROPAGATE}"),
    )
    return Table(
        "A black box",
        "The box is the source model of the same seed; black_box/ sees only a folder of its predictions, and "
        "its student starts from random weights. Below, for comparison: the same model as a white box.",
        (
            row("the box itself = the source model", SOURCE),
            *(row(name, model, box) for name, model in stages),
            *(row(f"{name}, distilled without jitter and blur", model, flip) for name, model in stages),
            *batchnorm_only(params, "white box: BatchNorm only"),
            row("white box: align", ALIGN),
            row("white box: teach", taught(params)),
            row("white box: propagate", PROPAGATE),
        ),
    )


def parts(params: Params) -> Table:
    """The parts of the method one by one."""
    teach = taught(params)
    plain = {"teach.augmentation.jitter": 0.0, "teach.augmentation.blur": False}
    return Table(
        "The parts of the method, one by one",
        "Each row adds one part to the one above it, except for (c), which has plain diversity in place of (b)'s; (d) "
        "continues from (b). Without photometric augmentation: no jitter and no blur in teach. The oracle is the "
        "source model's network, trained on the target's labels.",
        (
            row("source", SOURCE),
            *batchnorm_only(params),
            row("(a) curriculum entropy", ALIGN, {"align.diversity": 0.0}),
            row("(b) + weighted diversity = align", ALIGN),
            row("(c) + plain diversity instead", ALIGN, {"align.weighted": False}),
            row("(d) + positive labels", teach, {"teach.negative": 0.0}),
            row("(d) without photometric augmentation", teach, {"teach.negative": 0.0, **plain}),
            row("(e) + negative labels = teach", teach),
            row("(e) without photometric augmentation", teach, plain),
            row("(f) + propagation = propagate", PROPAGATE),
            row("(f) straight from align, without teach", PROPAGATE, {"split.model": ALIGN}),
            *oracle(params),
        ),
    )


def stages(params: Params) -> Table:
    """Which stages earn their time."""
    align, teach = needed(params.align, "align"), taught(params)
    starts: dict[str, dict[str, Any]] = {"align": {}}
    if has_batchnorm(params):
        starts["BatchNorm"] = baseline("baselines/batchnorm")
    rows = [row("align", ALIGN)]
    for start, values in starts.items():
        straight = {**values, "split.model": ALIGN}
        rows += [
            row(f"{start}, teach", teach, values),
            row(f"{start}, propagate", PROPAGATE, straight),
            row(f"{start}, teach, propagate", PROPAGATE, values),
        ]
        if align.steps and params.teach.steps and params.propagate.steps:
            # Those of the stages that are left out.
            more = len(params.rounds) * params.teach.steps + (0 if start == "align" else align.steps)
            length = with_length({"steps": params.propagate.steps + more})
            longer = {f"propagate.{key}": value for key, value in length.items()}
            rows.append(row(f"{start}, propagate, as many steps as all three", PROPAGATE, {**straight, **longer}))
    return Table(
        "The stages, in and out",
        "A row names the stages that run. BatchNorm: its statistics re-estimated in place of align. As many steps as "
        "all three: propagate is longer by the steps of the stages that are left out. The oracle is the source model's "
        "network, trained on the target's labels.",
        (row("source", SOURCE), *batchnorm_only(params), *rows, *oracle(params)),
    )


def oracle(params: Params) -> Iterable[Row]:
    """The source stage trained on the target's labels, twice as long, so that the closed share of the gap is not
    overstated; none without labels or with a given source model."""
    target, source = params.data.target, params.source
    if target.labels is None or source is None or params.model.weights not in ("none", "imagenet"):
        return
    space = params.data.label_space()
    name, length = ("steps", source.steps) if source.steps is not None else ("epochs", source.epochs or 0)
    length *= 2
    values = {
        "data.source.root": os.path.commonpath((target.images, target.labels)),
        "data.source.images": str(target.images),
        "data.source.labels": str(target.labels),
        "data.source.size": None,
        # The file of classes is next to the source's images.
        "data.classes": [
            {"name": name, "color": list(color)} for name, color in zip(space.names, space.colors, strict=True)
        ],
        "data.class_map": None,
        "source.checkpoint": None,
        **{f"source.{key}": value for key, value in with_length({name: length}).items()},
    }
    yield row(f"oracle: trained on target labels, {length} {name}", SOURCE, values)


def align_losses(params: Params) -> Table:
    """Variants of align's loss."""
    return Table(
        "Variants of align's loss",
        "Each row changes only align. Entropy is Eq. 2 and diversity Eq. 3; plain entropy has gamma 0, plain "
        "diversity no weights.",
        (
            row("source", SOURCE),
            *batchnorm_only(params),
            row("plain entropy", ALIGN, {"align.diversity": 0.0, "align.gamma": 0.0}),
            row("curriculum entropy", ALIGN, {"align.diversity": 0.0}),
            row("curriculum entropy + plain diversity", ALIGN, {"align.weighted": False}),
            row("curriculum entropy + weighted diversity = align", ALIGN),
            *(
                row(f"align, {name}", ALIGN, {f"align.{key}": value})
                for name, key, value in (
                    ("gradient through the entropy's weight", "weight_grad", "full"),
                    ("gradient not through the entropy's weight", "weight_grad", "detach"),
                    ("diversity of each image", "per_image", True),
                    ("diversity of the batch", "per_image", False),
                    ("the classifier learns too", "freeze_classifier", False),
                )
                if getattr(params.align, key) != value
            ),
        ),
    )


def propagation_after(params: Params) -> Table:
    """Propagation after other methods."""
    begun = {"source": (Setting(SOURCE), NO_CHANGE)}
    if has_batchnorm(params):
        begun["BatchNorm only"] = (Setting(ALIGN, baseline("baselines/batchnorm")), baseline("baselines/batchnorm"))
    for name, values in (
        ("TENT at a tenth of its rate", baseline("baselines/tent", lr_factor=0.1)),
        ("MaxSquare", baseline("baselines/max_square")),
        ("URMA at a tenth of its rate", baseline("baselines/urma", lr_factor=0.02)),
    ):
        if values["align.method"] in baselines(params):
            begun[name] = (Setting(ALIGN, values), values)
    begun["ATP: align"] = (Setting(ALIGN), {})
    rows = []
    for name, (alone, values) in begun.items():
        rows.append(Row(name, (alone,)))
        rows.append(row(f"{name}, then propagate", PROPAGATE, {**values, "split.model": ALIGN}))
    return Table(
        "Propagation after other methods",
        "Each method alone, and followed by split and propagate from its model, without teach. MaxSquare is at its "
        "published settings, TENT and URMA at a tenth of their rates.",
        tuple(rows),
    )


def propagation_variants(params: Params) -> Table:
    """Variants of propagation."""
    decay = params.propagate.ema or 0.999
    teachers = (
        ("an averaged teacher", {"propagate.ema": decay, "propagate.hand_on": "ema"}),
        ("no averaged teacher", {"propagate.ema": None, "propagate.hand_on": "student"}),
    )
    mixes: tuple[tuple[str, dict[str, Any]], ...] = (
        ("strong augmentation", {"mix": "none"}),
        ("CutMix", {"mix": "cut_mix"}),
        ("ClassMix", {"mix": "class_mix"}),
        ("ReCo", {"mix": "reco"}),
        ("UniMatch", {"mix": "uni_match", "confidence": 0.95}),
        ("MIC", {"mix": "mic"}),
    )
    return Table(
        "Variants of propagation",
        f"All start from teach's model. The averaged teacher, with decay {decay}, is the resulting model; without "
        "it the network teaches itself, as in the paper's text.",
        (
            row("teach", taught(params)),
            *(
                row(f"{name}, {teacher}", PROPAGATE, {f"propagate.{key}": value for key, value in mix.items()} | values)
                for name, mix in mixes
                for teacher, values in teachers
            ),
        ),
    )


def renewed(rounds: int) -> dict[str, Any]:
    """Parameters for rounds of one epoch each, every one with new pseudo labels."""
    models = [ALIGN, *(str(runs.taught(f"r{number:02}")) for number in range(1, rounds + 1))]
    return {
        "rounds": {f"r{number:02}": {"model": models[number - 1]} for number in range(1, rounds + 1)},
        "split.model": models[-1],
        **{f"teach.{name}": value for name, value in with_length({"epochs": 1}).items()},
    }


def renewed_labels(params: Params) -> Table:
    """How often pseudo labels are renewed, and whether the optimiser begins again."""
    rows = [row("align", ALIGN), row("teach, as in params.yaml", taught(params))]
    for rounds in (4, 10):
        for name, schedules in (("begins again", 1), ("goes on", rounds)):
            values = {**renewed(rounds), "teach.rounds_per_schedule": schedules}
            last = str(runs.taught(f"r{rounds:02}"))
            rows.append(row(f"{rounds} rounds of one epoch, the optimiser {name}", last, values))
    return Table(
        "Renewed pseudo labels",
        "Measured after the last round of teach. In a round, labels are made anew and trained on for an epoch; the "
        "paper has at most ten. The optimiser's momentum, its schedule and the averaged weights begin again in each "
        "round, or go on from round to round, which the paper does not say.",
        tuple(rows),
    )


def predictions(params: Params) -> Table:
    """Predictions next to images and labels."""
    return Table(
        "Predictions",
        "The best, the median and the worst image by the last model's mIoU, among those with stored predictions, "
        "for the first seed.",
        (
            row("source", SOURCE),
            *batchnorm_only(params),
            row("align", ALIGN),
            row("teach", taught(params)),
            row("propagate", PROPAGATE),
        ),
        kind="pictures",
    )


def teach_sensitivity(params: Params) -> Table:
    """How much the pseudo labels' thresholds matter."""
    teach, dump = taught(params), params.dump
    return Table(
        "Sensitivity of teach to the share K of labelled pixels, and to the threshold of negative labels",
        "Measured at teach; the other parameters as in params.yaml. With C classes a threshold is at most 1/C.",
        (
            row("align", ALIGN),
            *curve("K", teach, "dump.keep_ratio", (0.2, 0.5, 0.65, 0.8, 1.0), dump.keep_ratio),
            *curve(
                "negative threshold", teach, "dump.negative_threshold", (0.01, 0.02, 0.05, 0.1), dump.negative_threshold
            ),
        ),
        kind="curves",
    )


def align_sensitivity(params: Params) -> Table:
    """How much the weights in align's losses matter."""
    assert params.align is not None, "the white-box pipeline"
    # With sharpness 0 all pixels have the same weight, as in align-losses' plain diversity.
    plain = {"sharpness = 0": {"align.weighted": False}}
    return Table(
        "Sensitivity of align to gamma, and to the sharpness of the diversity's weights",
        "Measured at align; the other parameters as in params.yaml. Sharpness 0 is the plain diversity.",
        (
            (batchnorm_only(params) or [row("source", SOURCE)])[0],
            *curve("gamma", ALIGN, "align.gamma", (0.0, 1.0, 3.0, 5.0), params.align.gamma),
            *curve("sharpness", ALIGN, "align.sharpness", (0.0, 1.0, 3.0, 10.0), params.align.sharpness, plain),
        ),
        kind="curves",
    )


def evidence(params: Params) -> Table:
    """Runs that gain and runs broken on purpose, used to choose the verdict's thresholds."""
    stages = {"align": ALIGN, "teach": taught(params), "propagate": PROPAGATE}
    # The first stage that depends on the section.
    begins = {"align": 0, "dump": 1, "teach": 1, "propagate": 2}
    rows = [row("source", SOURCE), *batchnorm_only(params)]
    for name, values in BROKEN.items():
        first = min((begins[key.partition(".")[0]] for key in values), default=0)
        rows += [row(f"{name}: {stage}", model, values) for stage, model in list(stages.items())[first:]]
    return Table(
        "Runs that gain and runs that are broken on purpose",
        "Each run changes one thing; its models are judged without labels, next to their mIoU: benchmarks/evidence.py.",
        tuple(rows),
    )


BROKEN: Mapping[str, Mapping[str, Any]] = {
    "recipe": {},
    "entropy x100": {"align.alpha": 100.0},
    "diversity x100": {"align.diversity": 30.0},
    "diversity 0": {"align.diversity": 0.0},
    "BatchNorm eval": {"align.batchnorm": "eval"},
    "align rate x20": {"align.lr": 0.04},
    "K .02": {"dump.keep_ratio": 0.02},
    "teach rate x20": {"teach.lr": 0.4},
    "negatives x100": {"teach.negative": 100.0},
    "propagate rate x20": {"propagate.lr": 0.4},
}


def curve(
    name: str,
    model: str,
    parameter: str,
    values: Iterable[float],
    default: float,
    instead: Mapping[str, Mapping[str, Any]] | None = None,
) -> Iterable[Row]:
    """Points at some values of a parameter, including its value in params.yaml.

    Args:
        instead: other parameters for some points, by name.
    """
    for value in sorted({*values, default}):
        point = f"{name} = {value:g}"
        own = (instead or {}).get(point, {} if value == default else {parameter: value})
        called = f"{point}, as in params.yaml" if value == default else point
        yield row(called, model, own, curve=name, at=value, default=value == default)
