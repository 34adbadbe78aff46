"""The report: pictures as PNG, and one page that holds everything and needs nothing."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from atp.config import Params
from atp.data.folder import Sample, list_samples, read_label
from atp.data.labels import LabelSpace
from atp.report import figures
from atp.report.figures import Strip, thumbnail

STAGES = ("source", "batchnorm_only", "align", "teach", "propagate")
TITLES = {
    "predictions": "Best, median and worst images",
    "iou": "IoU per class",
    "labels": "Pseudo labels, round by round",
    "ranking": "Easy and hard images",
    "confusion": "Confusion",
    "history": "Training",
}
STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.55 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.4rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
.verdict { font-size: 1.1rem; } .up { color: #1a8a55; } .down { color: #c8432b; }
pre { overflow-x: auto; font-size: 12px; }
"""


def summary_table(metrics: Mapping[str, Any]) -> str:
    """mIoU of every stage and its distance from the source model, as aligned text."""
    miou: Mapping[str, float] = metrics["miou"]
    if not miou:
        return "no labels for the test images: no mIoU; see the entropies in runs/evaluate/metrics.json"
    lines = [f"{'':16}{'mIoU':>7}{'over source':>13}"]
    for stage in STAGES:
        if stage in miou:
            gain = "" if stage == "source" else f"{miou[stage] - miou['source']:+.1f}"
            lines.append(f"{stage:16}{miou[stage]:7.1f}{gain:>13}")
    return "\n".join(lines)


def verdict(metrics: Mapping[str, Any]) -> str:
    """What the figures say, in one sentence, also when it is not welcome."""
    miou: Mapping[str, float] = metrics["miou"]
    if not miou:
        return "The test images have no labels, so whether adaptation helped is not known from this page."
    gain = miou["propagate"] - miou["source"]
    text = f"The adapted model is {abs(gain):.1f} points of mIoU {'above' if gain >= 0 else 'BELOW'} the source model"
    if "batchnorm_only" in miou:
        more = miou["propagate"] - miou["batchnorm_only"]
        text += f", and {abs(more):.1f} {'above' if more >= 0 else 'BELOW'} re-estimated BatchNorm statistics alone"
    if gain < 0:
        text += ". Do not use it"
    return f"{text}."


def build_report(params: Params, runs: Path, out: Path) -> None:
    """Write the pictures and ``index.html`` of a finished run.

    Args:
        params: of that run.
        runs: its results, from ``source`` to ``evaluate``.
        out: an existing folder.
    """
    evaluation = runs / "evaluate"
    metrics, images, matrices = (_read(evaluation / f"{name}.json") for name in ("metrics", "images", "confusion"))
    space = params.data.label_space()
    models = [name for name in ("source", "align", "teach", "propagate") if name in images]
    drawn = {"predictions": figures.predictions(_strips(params, evaluation, images, models, space), space)}
    if metrics["miou"]:
        drawn["iou"] = figures.iou_bars({name: metrics["iou"][name] for name in models})
    rounds = {key: {**row, "coverage": 100 * row["coverage"]} for key, row in metrics["pseudo_labels"].items()}
    drawn["labels"] = figures.label_quality(rounds)
    drawn["ranking"] = _ranking(params, _read(runs / "split/ranking.json"))
    if metrics["miou"]:
        both = {name: np.array(matrices[name]) for name in (models[0], models[-1])}
        drawn["confusion"] = figures.confusion(both, space.names)
    curves = _histories(params, runs)
    if curves:
        drawn["history"] = figures.histories(curves)
    pictures = {name: figures.to_png(figure) for name, figure in drawn.items()}
    for name, data in pictures.items():
        (out / f"{name}.png").write_bytes(data)
    (out / "index.html").write_text(_page(params, metrics, space, pictures))


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


def _strips(
    params: Params, evaluation: Path, images: Mapping[str, Any], models: Sequence[str], space: LabelSpace
) -> list[Strip]:
    """Two best, two median and two worst images by the last model's mIoU; without labels by its entropy."""
    samples = {s.name: s for s in list_samples(params.data.test.images, params.data.test.labels)}
    last = images[models[-1]]
    labelled = bool(last["miou"])
    score = last["miou"] if labelled else {name: -value for name, value in last["entropy"].items()}
    order = sorted(score, key=lambda name: (-score[name], name))
    middle = len(order) // 2
    chosen = dict.fromkeys([*order[:2], *order[max(0, middle - 1) : middle + 1], *order[-2:]])
    titles = dict(zip(chosen, ("best", "", "median", "", "worst", ""), strict=False))
    strips = []
    for name in chosen:
        sample = samples[name]
        image = _rgb(sample)
        masks = {"ground truth": read_label(sample.label, space.num_classes).numpy()} if sample.label else {}
        captions = {"target image": name}
        for model in models:
            masks[model] = read_label(evaluation / "predictions" / model / f"{name}.png", space.num_classes).numpy()
            value = images[model]["miou" if labelled else "entropy"][name]
            captions[model] = f"{value:.1f} %" if labelled else f"entropy {value:.3f}"
        strips.append(Strip(titles[name], image, masks, captions))
    return strips


def _rgb(sample: Sample) -> NDArray[np.uint8]:
    with Image.open(sample.image) as file:
        return np.asarray(file.convert("RGB"))


def _ranking(params: Params, ranking: Mapping[str, Any]) -> Figure:
    samples = {s.name: s for s in list_samples(params.data.target.images)}
    order = [*ranking["easy"], *ranking["hard"]]

    def pictures(names: Sequence[str]) -> list[tuple[str, NDArray[np.uint8]]]:
        made = []
        for name in names:
            with Image.open(samples[name].image) as file:
                made.append((f"{name}: {ranking['entropy'][name]:.3f}", thumbnail(file)))
        return made

    entropy = [ranking["entropy"][name] for name in order]
    return figures.ranking(entropy, len(ranking["easy"]), pictures(order[:5]), pictures(order[:-6:-1]))


def _histories(params: Params, runs: Path) -> dict[str, dict[str, list[float]]]:
    folders = ["source", "align", *(f"teach/{key}" for key in params.rounds), "propagate"]
    curves = {}
    for folder in folders:
        header, *rows = (runs / folder / "history.csv").read_text().splitlines() or [""]
        if rows:
            columns = zip(*(map(float, row.split(",")) for row in rows), strict=True)
            curves[folder] = dict(zip(header.split(","), map(list, columns), strict=True))
    return curves


def _page(params: Params, metrics: Mapping[str, Any], space: LabelSpace, pictures: Mapping[str, bytes]) -> str:
    sections = "".join(
        f'<h2>{TITLES[name]}</h2><img alt="{TITLES[name]}" '
        f'src="data:image/png;base64,{base64.b64encode(data).decode()}">'
        for name, data in pictures.items()
    )
    settings = html.escape(json.dumps(params.model_dump(mode="json", by_alias=True, exclude={"runtime"}), indent=2))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>ATP report</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><h1>ATP report</h1>"
        f'<p class="verdict">{html.escape(verdict(metrics))}</p>{_stages(metrics)}{_classes(metrics, space)}{sections}'
        f"<h2>Settings</h2><details><summary>params.yaml as it was</summary><pre>{settings}</pre></details>"
        "</body></html>\n"
    )


def _stages(metrics: Mapping[str, Any]) -> str:
    miou = metrics["miou"]
    if not miou:
        return ""
    rows = [(stage, [f"{miou[stage]:.1f}", _gain(miou[stage], miou["source"])]) for stage in STAGES if stage in miou]
    return _table(["stage", "mIoU, %", "over source"], rows)


def _classes(metrics: Mapping[str, Any], space: LabelSpace) -> str:
    iou = metrics["iou"]
    if not iou:
        return ""
    stages = [stage for stage in STAGES if stage in iou]
    rows = []
    for name in space.names:
        values = [iou[stage][name] for stage in stages]
        cells = ["&ndash;" if value is None else f"{value:.1f}" for value in values]
        first, last = values[0], values[-1]
        rows.append((html.escape(name), [*cells, "" if first is None or last is None else _gain(last, first)]))
    return f"<h2>IoU per class, %</h2>{_table(['class', *stages, 'change'], rows)}"


def _gain(value: float, start: float) -> str:
    change = value - start
    kind = "up" if change > 0 else "down" if change < 0 else ""
    return f'<span class="{kind}">{change:+.1f}</span>'


def _table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    heads = "".join(f"<th>{name}</th>" for name in head)
    body = "".join(f"<tr><td>{name}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for name, cells in rows)
    return f"<table><tr>{heads}</tr>{body}</table>"
