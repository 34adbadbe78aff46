"""The model card: a version's description in the registry, in the Markdown that MLflow's page renders."""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from atp.data.reading import by
from atp.evaluation.evidence.record import Evidence
from atp.models.config import IGNORED
from atp.params import Params
from atp.registry.origin import STAGE_TAG
from atp.settings import Section
from atp.training.settings import Optimisation

LIMIT = 5000
"""Maximum length of a description in MLflow's database; sqlite accepts more, other databases do not."""


_GAP = "&ensp;"
"""Spacing between columns, which MLflow's page omits."""


def model_card(
    params: Params,
    tags: Mapping[str, str],
    metrics: Mapping[str, Any],
    *,
    images: int | None = None,
    picture: str = "",
    class_map: Sequence[int] | None = None,
    recommended: str = "",
    evidence: Evidence | None = None,
    vanished: str = "",
) -> str:
    """Describe a version: its origin, its measured performance, and what was not measured.

    Args:
        tags: as ``origin_tags`` makes them.
        metrics: the contents of ``runs/evaluate/metrics.json``; without ``miou`` if there are no labels.
        images: number of test images.
        picture: address of a picture; omitted if empty.
        class_map: the network's class map.
        recommended: why it is this stage's model.
        evidence: indicators and verdict without labels.
        vanished: one line on the classes that the model hardly predicts any more.

    Returns:
        At most ``LIMIT`` characters; with very many classes the table shows those that changed most.
    """
    iou = metrics.get("iou", {})
    source, adapted = iou.get("source", {}), iou.get(_stage(tags), {})
    names = list(adapted)
    # Classes that changed most are dropped last.
    order = sorted(names, key=lambda name: abs(_change(source.get(name), adapted[name])))
    for left_out in range(len(order) + 1):
        shown = set(order[left_out:])
        table = _table({name: (source.get(name), adapted[name]) for name in names if name in shown}, left_out)
        seen = [*([f"Recommended: {recommended}."] if recommended else []), *_seen(evidence, vanished)]
        card = "\n\n".join(_parts(params, tags, metrics, images, picture, class_map, seen, table))
        if len(card) <= LIMIT:
            return card
    return card[: LIMIT - 2] + "\n…"


def artifact_address(run_id: str, path: str) -> str:
    """The URL of a run's artifact on MLflow's page; relative, so it works behind any host and prefix.

    The page drops ``data:`` URLs, and a picture would not fit into the description.
    """
    return f"get-artifact?{urlencode({'path': path, 'run_uuid': run_id})}"


def _parts(
    params: Params,
    tags: Mapping[str, str],
    metrics: Mapping[str, Any],
    images: int | None,
    picture: str,
    class_map: Sequence[int] | None,
    seen: list[str],
    table: list[str],
) -> list[str]:
    return [
        _summary(metrics.get("miou", {}), _stage(tags)),
        *seen,
        *([f"![Target images, labels where there are any, and predictions]({picture})"] if picture else []),
        "### Data",
        "\n".join(_data(params, tags, images)),
        "### Method",
        "Align, Teach and Propagate (Wang, Liang, Zhang), without the source data and without labels of the target:",
        "\n".join(_method(params, class_map)),
        "All settings are in the run's parameters.",
        *(["### IoU per class, percent", "\n".join(table)] if table else []),
        "### Limits",
        "\n".join(_limits(params, metrics, _stage(tags))),
        "### Licence and intended use",
        "Unknown to ATP, which has not seen the licence of the data or of the source model: to be filled in by "
        "the user of this model.",
    ]


def _stage(tags: Mapping[str, str]) -> str:
    return tags.get(STAGE_TAG, "propagate")


def _summary(miou: Mapping[str, float | None], stage: str) -> str:
    source, adapted = miou.get("source"), miou.get(stage)
    if stage == "source":
        figure = "" if adapted is None else f", with **{adapted:.2f} % mIoU** on held-out images"
        return f"The source model of an adaptation, of which no stage was recommended{figure}."
    if adapted is None:
        return "A segmentation model adapted to new images. **Its quality was not measured: there were no labels.**"
    than = "" if source is None else f", its source model **{source:.2f} %**"
    return f"A segmentation model adapted to new images: **{adapted:.2f} % mIoU** on held-out ones{than}."


def _seen(evidence: Evidence | None, vanished: str) -> list[str]:
    """The verdict without labels, also shown if there are labels."""
    if evidence is None:
        return []
    return [
        f"Judged without labels, on {evidence['images']} target images: **{evidence['verdict']}**; {evidence['why']}. "
        "This is an estimate from indicators that correlated with mIoU elsewhere, not a measurement."
        + (f" Look at the {_cell(vanished)} of the pixels." if vanished else "")
    ]


def _data(params: Params, tags: Mapping[str, str], images: int | None) -> list[str]:
    size = "at their own sizes" if params.data.size is None else f"at {by(params.data.size)}"
    test = params.data.test
    count = "" if images is None else f"the {images} images of "
    return [
        f"- adapted to `{params.data.target.images}`, {size}, unlabelled; predicts at that size"
        + (f", in windows of {by(params.data.window)}" if params.data.window else ""),
        f"- measured on {count}`{test.images}`" + (f" with `{test.labels}`" if test.labels else ", without labels"),
        f"- all data: `{tags.get('atp.data', 'unknown')}`",
        f"- source model: {_source(params, tags)}",
        f"- code: ATP {tags.get('atp.version', 'unknown')}, commit `{tags.get('atp.git_commit', 'unknown')}`"
        + (" with changes" if tags.get("atp.git_dirty") == "true" else ""),
    ]


def _source(params: Params, tags: Mapping[str, str]) -> str:
    if params.query is None:
        return f"`{tags.get('atp.source_model', 'unknown')}`"
    # A query string may contain a secret.
    address = (params.query.endpoint or "").split("?")[0]
    where = {"endpoint": address, "callable": params.query.callable, "folder": params.query.folder}[params.query.box]
    answers = tags.get("atp.source_answers", "unknown")
    return f"a black box, {params.query.box} `{where}`, of which only the answers were available: `{answers}`"


def _class_map(class_map: Sequence[int] | None) -> list[str]:
    if class_map is None:
        return []
    targets = len(set(class_map) - {IGNORED})
    dropped = class_map.count(IGNORED)
    none = f", and {dropped} of them to none" if dropped else ""
    return [f"- classes: the source model's {len(class_map)} were mapped to these {targets}{none}"]


def _method(params: Params, class_map: Sequence[int] | None) -> list[str]:
    network = params.model
    classifier = f", classifier `{network.classifier}`" if network.classifier else ""
    made = f"`{network.network or network.factory}`{classifier}"
    ours = f"{network.backbone}, output stride {network.output_stride}"
    lines = [f"- network: {ours if network.ours else made}", *_class_map(class_map)]
    first: dict[str, Section | None] = {"align": params.align, "distill": params.distill}
    stages: dict[str, Section] = {
        **{name: section for name, section in first.items() if section is not None},
        "dump": params.dump,
        "teach": params.teach,
        "split": params.split,
        "propagate": params.propagate,
    }
    for name, section in stages.items():
        shared = Optimisation.model_fields if isinstance(section, Optimisation) else {}
        own = [key for key in type(section).model_fields if key not in shared]
        values = section.model_dump(mode="json")
        length = [key for key in ("epochs", "steps") if values.get(key) is not None]
        keys = [*length, *(key for key in ("lr", "batch_size", "batchnorm") if key in shared), *own]
        rounds = f" x {len(params.rounds)} rounds" if name in ("dump", "teach") and len(params.rounds) > 1 else ""
        told = (f"{key} {_plain(values[key])}" for key in keys if values[key] != {})
        lines.append(f"- {name}{rounds}: " + ", ".join(told))
    return [*lines, f"- seed {params.training.seed}, {params.training.precision}"]


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def _table(iou: Mapping[str, tuple[float | None, float | None]], left_out: int) -> list[str]:
    if not iou and not left_out:
        return []
    lines = ["| class | source | adapted | change |", "|---|---:|---:|---:|"]
    for name, (before, after) in iou.items():
        change = "" if before is None or after is None else f"{after - before:+.2f}"
        lines.append(f"| {_cell(name)}{_GAP} | {_GAP}{_number(before)} | {_GAP}{_number(after)} | {_GAP}{change} |")
    return lines + ([f"| and {left_out} more that changed less | | | |"] if left_out else [])


def _limits(params: Params, metrics: Mapping[str, Any], stage: str) -> list[str]:
    iou = metrics.get("iou", {})
    source, adapted = iou.get("source", {}), iou.get(stage, {})
    lines = []
    if adapted:
        worse = [name for name in adapted if _change(source.get(name), adapted[name]) < 0]
        told = ", ".join(f"{_cell(name)} ({source[name]:.2f} to {adapted[name]:.2f})" for name in worse[:12])
        more = f" and {len(worse) - 12} more" if len(worse) > 12 else ""
        lines.append(f"- got worse: {told}{more}" if worse else "- no class got worse")
        absent = [_cell(name) for name in adapted if adapted[name] is None]
        if absent:
            lines.append(f"- not measured, since absent from the test images: {', '.join(absent[:12])}")
    else:
        lines.append("- mIoU was not measured; higher confidence does not imply higher accuracy")
    return [
        *lines,
        f"- one run with seed {params.training.seed}; another seed moves mIoU by some points",
        "- not measured: the source domain, other domains, other image sizes, whether its confidence is calibrated",
    ]


def _change(before: float | None, after: float | None) -> float:
    return 0.0 if before is None or after is None else after - before


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _cell(text: str) -> str:
    """A class's name as text of Markdown, of HTML and of a table's cell."""
    return re.sub(r"([\\`*_\[\]!|~#])", r"\\\1", " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;"))
