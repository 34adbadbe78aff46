"""The report of a run: pictures as PNG, and one self-contained HTML page."""

import base64
import io
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError
from PIL import Image
from ruamel.yaml import YAML

from atp.errors import InputError, counted, first_line
from atp.evaluation.recommendation import Recommendation
from atp.files import atomic_path, digest
from atp.params import Params
from atp.report import figures
from atp.report.pictures import overlays, predictions
from atp.report.results import Results, read_results
from atp.report.style import MANY_CLASSES, charts, class_names, display_name, model_color
from atp.report.summary import verdict
from atp.runs import METRICS, MODEL, within

LIBRARIES = ("atp", "torch", "torchvision", "numpy", "pillow", "matplotlib")


def build_report(params: Params, runs: Path, out: Path) -> Recommendation:
    """Write the pictures and ``index.html`` of a finished run.

    Args:
        params: the run's parameters.
        runs: its results, from ``source`` to ``evaluate``.
        out: an existing folder.

    Returns:
        The model to use, and why.

    Raises:
        InputError: the run is not finished, or one of its images is missing.
    """
    try:
        results = read_results(params, runs)
        pictures = draw(results)
        written = page(results, pictures).encode()
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, UndefinedError) as error:
        # The stages' tables have no schema; whatever is drawn of them first meets what is not as they write it.
        what = f"a table is damaged ({first_line(error)})"
        raise InputError(f"{runs}: {what}; dvc status names its stage, and dvc repro --force repeats it") from error
    files = {f"{name}.png": data for name, data in pictures.items()}
    for name, data in {**files, "index.html": written}.items():
        # Written next to the old file and then renamed: the old file may be a link into DVC's cache.
        with atomic_path(out / name) as temporary:
            temporary.write_bytes(data)
    return results.recommendation


def draw(results: Results) -> dict[str, bytes]:
    """All pictures available for this run, as PNG, by name and in the page's order."""
    rounds, ranking, curves = results.label_rounds(), results.ranking(), results.histories()
    sheets = {"predictions": _png(predictions(results)), "overlays": _png(overlays(results))}
    with charts():
        drawn = {
            "iou": figures.iou_bars(results) if results.labelled else None,
            "labels": figures.label_quality(rounds, class_names(results.space)) if rounds else None,
            "ranking": figures.ranking_curve(ranking),
            "confusion": figures.confusion(results) if results.labelled else None,
            "evidence": figures.evidence_lines(results.indicators) if results.evidence else None,
            "history": figures.histories(curves) if curves else None,
        }
        charted = {name: figures.to_png(figure) for name, figure in drawn.items() if figure}
    return {"predictions": sheets["predictions"], "overlays": sheets["overlays"], **charted}


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def page(results: Results, pictures: Mapping[str, bytes]) -> str:
    """The whole page, with embedded pictures."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"display_name": display_name, "signed": figures.signed, "model_color": model_color}
    environment.filters["counted"] = counted
    return environment.get_template("page.html").render(
        results=results,
        recommendation=results.recommendation,
        verdict=verdict(results.miou, results.adapted),
        header=_header(results),
        better=figures.BETTER,
        meanings=figures.MEANINGS,
        pictures={name: _embedded(data) for name, data in pictures.items()},
        many=results.space.num_classes > MANY_CLASSES,
        provenance=_provenance(results),
        settings=_settings(results.params),
    )


def _embedded(data: bytes) -> dict[str, str | int]:
    """The HTML attributes of an embedded picture."""
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
    return {"width": width, "height": height, "src": f"data:image/png;base64,{base64.b64encode(data).decode()}"}


def _header(results: Results) -> dict[str, str]:
    """What was adapted to what, when and by which command, in words."""
    params, data = results.params, results.params.data
    own = params.model.network or params.model.factory
    network = own or f"{params.model.backbone}, output stride {params.model.output_stride}"
    labels = ", with labels" if results.labelled else ", without labels"
    held_out = f", {data.validation.images} to choose on" if results.validation and data.validation else ""
    evaluated = datetime.fromtimestamp(within(results.runs, METRICS).stat().st_mtime, tz=UTC)
    return {
        "data": f"adapted to {data.target.images}, {counted(len(results.ranking().samples), 'image')}; tested on "
        f"{data.test.images}, {counted(len(results.test_samples), 'image')}{labels}{held_out}",
        "network": f"{network}; {results.space.num_classes} classes" + ("; from a black box" * params.black_box),
        "size": str(data.reading),
        "date": f"{evaluated:%Y-%m-%d}, when the models were evaluated",
        "command": f"dvc repro{' black_box/dvc.yaml' * params.black_box}",
    }


def _provenance(results: Results) -> dict[str, str]:
    """The data, model and libraries behind the run, as far as known; only reproducible values."""
    params, model = results.params, results.recommendation.folder / MODEL
    facts = {
        "data": _data_digest(params),
        "recommended model": f"{model} sha256 {digest(model)}" if model.is_file() else "",
        "class map": _class_map(params),
        "Python": platform.python_version(),
    }
    return {name: value for name, value in facts.items() if value} | {name: version(name) for name in LIBRARIES}


def _settings(params: Params) -> str:
    """params.yaml without settings that do not change a result or apply after it."""
    buffer = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = None
    yaml.width = 100
    yaml.dump(params.model_dump(mode="json", by_alias=True, exclude={"runtime", "register_"}), buffer)
    return buffer.getvalue()


def _class_map(params: Params) -> str:
    """The mapping of the source model's classes; a black box's answers are already mapped."""
    pairs = (None if params.black_box else params.data.mapped_names()) or []
    sources = {target: [name for name, to in pairs if to == target] for _, target in pairs}
    return "; ".join(f"{', '.join(names)} → {target}" for target, names in sources.items())


def _data_digest(params: Params) -> str:
    """DVC's digest of the data, if they are in DVC."""
    described = Path(f"{params.data.root}.dvc")
    if not described.is_file():
        return ""
    tree = YAML(typ="safe").load(described)
    return ", ".join(f"{out['path']} md5 {out['md5']}" for out in tree.get("outs", []) if "md5" in out)
