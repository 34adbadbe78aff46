"""The report of a run: pictures as PNG, and one page that holds everything and needs nothing else."""

import base64
import html
import io
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from PIL import Image
from ruamel.yaml import YAML

from atp.files import atomic_path, digest
from atp.params import Params
from atp.report import figures
from atp.report.pictures import predictions
from atp.report.results import BATCHNORM_ONLY, Results, in_order, known, read_results
from atp.report.style import MANY_CLASSES, MODELS, OTHER_MODEL, charts, class_names, display_name

LIBRARIES = ("atp", "torch", "torchvision", "numpy", "pillow", "matplotlib")
STYLE = """
:root { color-scheme: light dark; --text: #1f2933; --faint: #5d6872; --line: #d9dee3; --page: #fff; --soft: #f4f6f8;
  --up: #1a7f4b; --down: #b3361f; --link: #1d6fa8; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e8ec; --faint: #9aa5b0; --line: #38424c; --page: #15191d;
  --soft: #20262c; --up: #58c98d; --down: #f08a74; --link: #86c5ea; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 74rem; padding: 1.5rem 1.25rem 4rem; background: var(--page); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .5rem 0 1.2rem; }
h2 { font-size: 1.25rem; margin: 3rem 0 .4rem; }
p { max-width: 46rem; margin: .4rem 0 1rem; }
.verdict { font-size: 1.15rem; margin: 1.2rem 0; }
.note, nav { color: var(--faint); }
nav a { color: var(--link); margin-right: .8rem; white-space: nowrap; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { font-weight: 600; color: var(--faint); vertical-align: bottom; }
th, td { padding: .32rem .9rem .32rem 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child, #provenance td { text-align: left; }
td.bar { text-align: left; width: 16rem; padding-right: 0; }
td.bar i { display: block; height: .85rem; border-radius: 2px; min-width: 1px; }
td.name { white-space: normal; overflow-wrap: anywhere; min-width: 8rem; }
.up { color: var(--up); } .down { color: var(--down); } .none { color: var(--faint); }
.swatch { display: inline-block; width: .85rem; height: .85rem; border-radius: 2px; margin-right: .55rem;
  vertical-align: -.08rem; border: 1px solid #8886; }
figure { margin: 0; background: #fff; border: 1px solid var(--line); border-radius: 8px; padding: .8rem; }
img { display: block; max-width: 100%; height: auto; margin: auto; }
summary { cursor: pointer; color: var(--link); }
pre { overflow-x: auto; background: var(--soft); padding: 1rem; border-radius: 8px; font-size: .82rem;
  line-height: 1.45; }
code { overflow-wrap: anywhere; font-size: .88rem; }
@media (max-width: 46rem) { figure { overflow-x: auto; } figure img { min-width: 46rem; } td.bar { width: 7rem; } }
"""


def summary_table(metrics: Mapping[str, Any], verdicts: Mapping[str, str] = MappingProxyType({})) -> str:
    """mIoU of every model and its gain over the source model, as text in columns; without labels the entropies.

    Args:
        metrics: what is in ``runs/evaluate/metrics.json``.
        verdicts: what was said of some of the models without labels, by name.
    """
    miou = known(metrics["miou"])
    values, heading, digits = (miou, "mIoU, %", 1) if miou else (metrics["entropy"], "entropy", 3)
    names = in_order(values)
    width = max(map(len, names)) + 2
    protocols = {protocol: known(values) for protocol, values in metrics.get("protocols", {}).items()}
    heads = "".join(f"{protocol:>{len(protocol) + 2}}" for protocol in protocols)
    lines = [f"{'':{width}}{heading:>8}" + ("  over source" if "source" in miou else "") + heads]
    lines[0] += "  without labels" if verdicts else ""
    padded = 13 if "source" in miou and (protocols or verdicts) else 0
    for name in names:
        gain = f"{miou[name] - miou['source']:+13.1f}" if "source" in miou and name != "source" else ""
        others = "".join(
            f"{means[name]:{len(protocol) + 2}.1f}" if name in means else " " * (len(protocol) + 2)
            for protocol, means in protocols.items()
        )
        said = f"  {verdicts[name]}" if name in verdicts else ""
        lines.append(f"{name:{width}}{values[name]:8.{digits}f}{gain:{padded if others or said else 0}}{others}{said}")
    if not miou:
        lines.append(
            "The test images have no labels, so there is no mIoU; entropy says how sure a model is, not how right."
        )
    return "\n".join(lines)


def verdict(miou: Mapping[str, float], last: str) -> str:
    """What the figures say, in plain words, also where it is not welcome.

    Args:
        miou: percent by model; empty without labels.
        last: the adapted model.
    """
    if last not in miou:
        return "The test images have no labels, so this page cannot say whether adaptation helped."
    first = next(iter(miou))
    than = "the source model" if first == "source" else f"{first}, the first model known"
    text = f"{last} is {_points(miou[last] - miou[first], ' points of mIoU')} {than}"
    if BATCHNORM_ONLY in miou:
        more = _points(miou[last] - miou[BATCHNORM_ONLY])
        text += f", and {more} what re-estimating its BatchNorm statistics alone gives"
    return f"{text}."


def _points(difference: float, unit: str = "") -> str:
    if round(difference, 1) == 0:
        return "level with"
    return f"{abs(difference):.1f}{unit} {'above' if difference > 0 else 'below'}"


def build_report(params: Params, runs: Path, out: Path) -> None:
    """Write the pictures and ``index.html`` of a finished run.

    Args:
        params: of that run.
        runs: its results, from ``source`` to ``evaluate``.
        out: an existing folder.

    Raises:
        InputError: the run is not finished, or an image that it worked on is gone.
    """
    results = read_results(params, runs)
    pictures = draw(results)
    for name, data in pictures.items():
        _write(out / f"{name}.png", data)
    _write(out / "index.html", page(results, pictures).encode())


def _write(path: Path, data: bytes) -> None:
    """Beside what was there and then in its place: that may be a link into DVC's cache."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def draw(results: Results) -> dict[str, bytes]:
    """All pictures that this run can have, as PNG, by name and in the page's order."""
    rounds, ranking, curves = results.label_rounds(), results.ranking(), results.histories()
    buffer = io.BytesIO()
    predictions(results).save(buffer, "PNG")
    with charts():
        drawn = {
            "iou": figures.iou_bars(results) if results.labelled else None,
            "labels": figures.label_quality(rounds, class_names(results.space)) if rounds else None,
            "ranking": figures.ranking_curve(ranking),
            "confusion": figures.confusion(results) if results.labelled else None,
            "evidence": figures.evidence_lines(results.evidence) if results.evidence else None,
            "history": figures.histories(curves) if curves else None,
        }
        charted = {name: figures.to_png(figure) for name, figure in drawn.items() if figure}
    return {"predictions": buffer.getvalue(), **charted}


def page(results: Results, pictures: Mapping[str, bytes]) -> str:
    """The whole page; pictures are part of it."""
    told = _told(results)
    links = " ".join(f'<a href="#{name}">{told[name][0]}</a>' for name in pictures)
    parts = [
        "<h1>Adaptation report</h1>",
        _models(results),
        f'<p class="verdict">{html.escape(verdict(results.miou, results.shown[-1]))}</p>',
        f"<nav>{links}</nav>",
        _evidence(results),
        _classes(results),
        *(_picture(name, *told[name], data) for name, data in pictures.items()),
        _provenance(results),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Adaptation report</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body>\n" + "\n".join(part for part in parts if part) + "\n</body></html>\n"
    )


def _told(results: Results) -> dict[str, tuple[str, str]]:
    """Heading and explanation of every picture."""
    last = results.shown[-1]
    by = (
        f"Test images from the two ends and the middle of the order by {last}'s mIoU on the image, over the classes "
        "that it shows."
        if results.labelled
        else f"The test images have no labels: these are from the two ends and the middle of the order by {last}'s "
        "mean entropy. Low entropy means that a model is sure, not that it is right."
    )
    some = (
        f" Of {results.space.num_classes} classes some are shown." if results.space.num_classes > MANY_CLASSES else ""
    )
    right = " Where the target images have labels, they say how many are right; the adaptation never sees them."
    return {
        "predictions": ("Predictions", by),
        "iou": ("IoU per class", f"Intersection over union on the test images, before adaptation and after it.{some}"),
        "labels": ("Pseudo labels", f"What each round learns from, and what propagate does (split).{right}{some}"),
        "ranking": ("Easy and hard images", "Mean entropy of the last round's model on each target image (Eq. 9)."),
        "confusion": (
            "Confusion",
            f"Of each true class, the share of its pixels that is predicted as each class.{some}",
        ),
        "evidence": (
            "Without labels, stage by stage",
            "How far each model agrees with itself on changed images (class-IoU), and how far its class shares are "
            "from the source model's. Higher agreement went with higher mIoU where that could be measured.",
        ),
        "history": ("Training", "The loss of every training stage and its parts, as means over some steps."),
    }


def _models(results: Results) -> str:
    """The table at the top: every model's mIoU and its gain."""
    if not results.labelled:
        rows = [[_model(name), f"{value:.3f}"] for name, value in results.entropy.items()]
        return _table(["model", "mean entropy"], rows)
    source = results.miou.get("source")
    rows = []
    for name, value in results.miou.items():
        color = MODELS.get(name, MODELS["teach"] if name.startswith("teach") else OTHER_MODEL)
        bar = f'<td class="bar"><i style="width:{value:.1f}%;background:{color}"></i></td>'
        gain = "" if source is None or name == "source" else _change(value - source)
        others = [f"{means[name]:.1f}" if name in means else "" for means in results.protocols.values()]
        rows.append([_model(name), f"{value:.1f}", gain, *others, bar])
    return _table(["model", "mIoU, %", "over source", *map(html.escape, results.protocols), ""], rows)


def _evidence(results: Results) -> str:
    """What each stage's model looks like without labels, and the verdict in words."""
    if not results.evidence:
        return ""
    first = next(iter(results.evidence.values()))
    start = "source" if "align" in results.evidence else "before the first stage"
    columns = [first["source"], *(told["after"] for told in results.evidence.values())]
    rows = [[name.replace("_", " "), *(f"{column[name]:.3f}" for column in columns)] for name in first["source"]]
    words, reasons = [""], []
    for model, told in results.evidence.items():
        kind = {"improved": "up", "collapsed": "down"}.get(told["verdict"], "none")
        word = f'<span class="{kind}">{told["verdict"]}</span>' + (", taken back" if told["reverted"] else "")
        words.append(word)
        lost = f"; <strong>{html.escape(results.vanished[model])}</strong>" if model in results.vanished else ""
        reasons.append(f"<li>{_model(model)}: {word}: {html.escape(told['why'])}{lost}</li>")
    note = (
        f"Measured on {first['images']} unlabelled target images. Of these figures agreement at other scales (scale "
        "iou) followed the truth best where labels were at hand; that a model is sure (entropy) or dense says nothing "
        "about it. The verdict is a guess from figures like these, not a measurement."
    )
    table = _table(["", *map(_model, [start, *results.evidence])], [*rows, ["verdict", *words]])
    return f"<h2>Without labels</h2><p>{note}</p>{table}<ul>{''.join(reasons)}</ul>"


def _model(name: str) -> str:
    return html.escape(display_name(name))


def _classes(results: Results) -> str:
    """IoU by class and model, and how adaptation changed it."""
    if not results.labelled:
        return ""
    models = list(results.iou)
    first, last = results.iou[models[0]], results.iou[models[-1]]
    rows, changes = [], []
    for name, color in zip(results.space.names, results.space.colors, strict=True):
        before, after = first[name], last[name]
        swatch = f'<span class="swatch" style="background:rgb{color}"></span>'
        change = ""
        if before is not None and after is not None:
            changes.append(round(after - before, 1))
            change = _change(after - before)
        cells = [
            '<span class="none">·</span>' if v is None else f"{v:.1f}" for v in (results.iou[m][name] for m in models)
        ]
        rows.append([f'<td class="name">{swatch}{html.escape(name)}</td>', *cells, change])
    up, down = sum(c > 0 for c in changes), sum(c < 0 for c in changes)
    note = f"From {_model(models[0])} to {_model(models[-1])} {up} of {len(changes)} classes gained and {down} lost."
    if len(changes) < len(rows):
        note += f" Not in the test labels (·): {len(rows) - len(changes)}."
    table = _table(["class", *map(_model, models), "change"], rows)
    if len(rows) > MANY_CLASSES:
        table = f"<details><summary>All {len(rows)} classes</summary>{table}</details>"
    return f"<h2>Classes</h2><p>{note} IoU in percent.</p>{table}"


def _change(value: float) -> str:
    kind = "none" if round(value, 1) == 0 else "up" if value > 0 else "down"
    return f'<span class="{kind}">{figures.signed(value)}</span>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of HTML; cells that are whole ``td`` elements stay as they are."""
    heads = "".join(f"<th>{cell}</th>" for cell in head)
    lines = ("".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in row) for row in rows)
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _picture(name: str, heading: str, text: str, data: bytes) -> str:
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return (
        f'<section id="{name}"><h2>{heading}</h2><p>{html.escape(text)}</p>'
        f'<figure><img alt="{heading}" width="{width}" height="{height}" src="{source}"></figure></section>'
    )


def _provenance(results: Results) -> str:
    """Which data, parameters and libraries made this; nothing that differs when the same is made again."""
    params = results.params
    facts = {"data": _data_digest(params), "adapted model": _model_digest(results)}
    facts["class map"] = _class_map(params)
    facts["Python"] = platform.python_version()
    facts |= {name: version(name) for name in LIBRARIES}
    rows = [[html.escape(name), f"<code>{html.escape(value)}</code>"] for name, value in facts.items() if value]
    buffer = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = None
    yaml.width = 100
    # What changes no result, and what is decided after it.
    yaml.dump(params.model_dump(mode="json", by_alias=True, exclude={"runtime", "register_"}), buffer)
    settings = f"<pre>{html.escape(buffer.getvalue())}</pre>"
    return (
        f'<section id="provenance"><h2>What made this</h2>{_table(["", ""], rows)}'
        f"<details><summary>params.yaml, with every default</summary>{settings}</details></section>"
    )


def _class_map(params: Params) -> str:
    """Which of the source model's classes became which; the answers of a black box are mapped already."""
    pairs = (None if params.black_box else params.data.mapped_names()) or []
    sources = {target: [name for name, to in pairs if to == target] for _, target in pairs}
    return "; ".join(f"{', '.join(names)} → {target}" for target, names in sources.items())


def _data_digest(params: Params) -> str:
    """What DVC calls the data, if DVC brought them."""
    described = Path(f"{params.data.root}.dvc")
    if not described.is_file():
        return ""
    tree = YAML(typ="safe").load(described)
    return ", ".join(f"{out['path']} md5 {out['md5']}" for out in tree.get("outs", []) if "md5" in out)


def _model_digest(results: Results) -> str:
    path = results.runs / results.shown[-1] / "model.safetensors"
    return f"{path} sha256 {digest(path)}" if path.is_file() else ""
