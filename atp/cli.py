"""The command line ``atp``. ``init`` and ``adapt`` are in ``atp.project.command``."""

import json
import logging
import re
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

import atp
from atp.errors import InputError, counted, exit_codes, interruptible
from atp.evaluation.evidence.record import INDICATORS
from atp.project import command as project
from atp.runs import ANSWERS, METRICS, RUNS, is_run, within
from atp.studies.definitions import HeldOut, Where

if TYPE_CHECKING:
    from atp.evaluation.recommendation import Recommendation
    from atp.registry.settings import RegisterSettings


class Commands(TyperGroup):
    """Commands that end with one line on Ctrl-C; Typer's own end with none."""

    def invoke(self, ctx: Any) -> Any:
        with interruptible(lambda: f"atp {ctx.invoked_subcommand}: interrupted; the same command starts it again"):
            return super().invoke(ctx)


app = typer.Typer(
    cls=Commands,
    help=atp.__doc__,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    """Adapt a semantic-segmentation model to a new domain when the source data is gone."""
    if str(Path.cwd()) not in sys.path:
        # The user's own network may be in the working folder, as for `python -m atp.stages`.
        sys.path.insert(0, str(Path.cwd()))
    if version:
        typer.echo(f"atp {atp.__version__}")
        raise typer.Exit


def _chosen(model: str) -> str:
    """The model to use, the recommended one if a run's folder is given.

    Logs which one it is, and warns if it or what recommends it is from an earlier run, as after a run that stopped
    early.
    """
    runs, told = Path(model), ""
    earlier = [] if ":/" in model else [runs]
    if ":/" not in model and is_run(runs):
        found = _recommended(runs)
        model, told = str(found.folder), f", recommended: {found.why}"
        evaluated = within(runs, METRICS).parent
        earlier = [found.folder, *([evaluated] if evaluated.is_dir() else [])]
    if ":/" in model or Path(model).exists():
        typer.echo(f"model: {model}{told}", err=True)
    warning = next(filter(None, map(_earlier, earlier)), "")
    if warning:
        typer.echo(f"warning: {warning}", err=True)
    return model


def _recommended(runs: Path) -> "Recommendation":
    """The recommended model of a run, whose parameters lie beside its folder."""
    from atp.evaluation.recommendation import read_recommendation
    from atp.params import read_params

    path = runs.absolute().parent / "params.yaml"
    given = read_params(path).get("rounds") if path.is_file() else None
    taught = sorted(folder.name for folder in (runs / "teach").glob("*"))
    rounds = list(given) if isinstance(given, dict) and given else taught or ["r01"]
    return read_recommendation(runs, rounds, black_box=within(runs, ANSWERS).is_dir())


def _earlier(result: Path) -> str:
    """A warning if a result is from an earlier run, with the reason and the remedy; empty if it is current."""
    from atp.selection.lockfile import outdated_result

    why = outdated_result(result)
    return f"{result} is from an earlier run: {why}; run dvc repro to update it" if why else ""


Model = Annotated[
    str,
    typer.Option(
        help="A run's folder, of which the recommended stage is used; a stage's folder; a model.safetensors; or "
        "models:/NAME@ALIAS of the registry."
    ),
]
DEFAULT_MODEL = str(RUNS)
"""The model that a command takes if none is named."""
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Trust = Annotated[
    bool, typer.Option("--trust", help="Allow the model's file to name the code that builds its network.")
]


@app.command()
def predict(
    images: Annotated[
        list[Path],
        typer.Argument(help="Images, videos, folders of them, or patterns in quotes, such as 'cam*/**/*.png'."),
    ],
    out: Annotated[Path, typer.Argument(help="Folder for masks/, overlays/ and predictions.json.")],
    model: Model = DEFAULT_MODEL,
    size: Annotated[
        str,
        typer.Option(
            help="WIDTHxHEIGHT at which the model reads the images, or native, their own; default: the size at which "
            "it was adapted."
        ),
    ] = "",
    inference: Annotated[
        str,
        typer.Option(
            help="whole, or sliding: read the images at --size in overlapping windows of the size at which the model "
            "was adapted; default: as it was adapted."
        ),
    ] = "",
    overlay: Annotated[bool, typer.Option(help="Also write the images overlaid with the classes.")] = True,
    legend: Annotated[bool, typer.Option(help="Put the names and colours of the classes below an overlay.")] = True,
    soft: Annotated[bool, typer.Option("--soft", help="Also write the probabilities of all classes: soft/.")] = False,
    frames: Annotated[bool, typer.Option("--frames", help="Also write a mask for every frame of a video.")] = False,
    batch: Annotated[
        int, typer.Option(min=1, help="Images of one size in a forward pass; above 1, last bits can change.")
    ] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Threads that read images ahead and write files.")] = 2,
    device: Device = "auto",
    trust: Trust = False,
) -> None:
    """Predict the class of every pixel: palette PNGs of class ids at the images' own sizes, and overlays."""
    from atp.masks import Wanted, write_predictions  # torch takes seconds, which --help should not

    written, refused = write_predictions(
        images,
        out,
        _chosen(model),
        size,
        inference,
        wanted=Wanted(overlay, legend, soft, frames),
        batch=batch,
        workers=workers,
        tell=partial(typer.echo, err=True),
        device=device,
        trust=trust,
    )
    parts = [f"{counted(written, 'mask')} in {out / 'masks'}"] if written else []
    parts += [f"probabilities in {out / 'soft'}"] if soft else []
    typer.echo(", ".join([*parts, *([f"overlays in {out / 'overlays'}"] if overlay else [])]))
    if refused:
        raise InputError(f"{len(refused)} of the inputs could not be predicted in full: {refused[0]}")


@app.command()
def export(
    out: Annotated[Path, typer.Argument(help="File to write: .safetensors, .pth by torch.save, or .onnx.")],
    model: Model = DEFAULT_MODEL,
    images: Annotated[
        Path | None,
        typer.Option(help="Images on which an ONNX file is compared with PyTorch; default: the test images."),
    ] = None,
    trust: Trust = False,
) -> None:
    """Write the adapted network for use without ATP: a state dict of its own class, or an ONNX graph."""
    model = _chosen(model)
    if out.suffix.lower() == ".onnx":
        from atp.onnx import export_onnx

        typer.echo(export_onnx(out, model, images, trust=trust))
        return
    from atp.export import export_state

    typer.echo(export_state(out, model))


@app.command()
def annotations(
    predictions: Annotated[Path, typer.Argument(help="Folder that atp predict wrote.")],
    out: Annotated[Path, typer.Argument(help="New folder to write; for fiftyone, the name of the data set.")],
    kind: Annotated[str, typer.Option("--format", help="coco, cvat, label-studio, or fiftyone.")],
    most: Annotated[int, typer.Option(min=0, help="Only this many images, the least certain; 0 is all.")] = 0,
) -> None:
    """Turn predicted masks into annotations that people can correct, the least certain images first."""
    from atp.annotations.write import write_annotations

    typer.echo(write_annotations(predictions, out, kind, most))


@app.command()
def doctor(
    params: Annotated[Path, typer.Option(help="The parameter file.")] = Path("params.yaml"),
    sample: Annotated[int, typer.Option(help="Number of images to read per folder; 0 reads all.")] = 0,
    data_set: Annotated[
        tuple[str, Path] | None,
        typer.Option(help="Check a published data set instead: its name and the folder it was unpacked to."),
    ] = None,
) -> None:
    """Check parameters, data and checkpoint before training and report each problem on one line."""
    from atp.checks.data_set import examine_data_set
    from atp.doctor import examine

    findings = examine_data_set(*data_set) if data_set else examine(params, sample)
    for finding in findings:
        typer.echo(f"{finding.level:8}{finding.text}")
    errors = sum(finding.level == "error" for finding in findings)
    warnings = sum(finding.level == "warning" for finding in findings)
    typer.echo(f"{counted(errors, 'error')}, {counted(warnings, 'warning')}")
    if errors:
        raise typer.Exit(2)


labels = typer.Typer(help="Work on labels.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(labels, name="labels")


@labels.callback()
def _labels() -> None:
    # With a callback, a single command keeps its name.
    pass


@labels.command()
def convert(
    folder: Annotated[Path, typer.Argument(help="Folder of images whose pixels are the classes' colours.")],
    out: Annotated[Path, typer.Argument(help="New folder for the labels.")],
    classes: Annotated[Path, typer.Option(help="The classes, as data.classes of params.yaml names them.")],
    unlabelled: Annotated[
        list[str] | None, typer.Option(help="Colour of pixels without a label, as in 0,0,0; repeat for several.")
    ] = None,
) -> None:
    """Convert labels from the classes' colours to class ids: palette PNGs, as every stage reads them."""
    from atp.data.settings import read_classes
    from atp.datasets.colours import colour, convert_labels

    none = [colour(text) for text in unlabelled or ()]
    count = convert_labels(folder, out, read_classes(classes, "correct --classes"), none)
    typer.echo(f"{counted(count, 'label')} in {out}")


@app.command()
def report(
    runs: Annotated[Path, typer.Option(help="Folder of the results.")] = RUNS,
) -> None:
    """Redraw the report of a finished run and print mIoU per stage and the path of the pictures."""
    from atp.evaluation.evidence.record import read_all
    from atp.evaluation.evidence.vanished import warnings
    from atp.params import load_params
    from atp.report.page import build_report
    from atp.report.summary import summary_table

    metrics = within(runs, METRICS)
    if not metrics.is_file():
        raise InputError(f"{metrics}: no such file; run dvc repro first")
    out = runs / "report"
    params = load_params()
    earlier = _earlier(metrics.parent)
    try:
        recommended = build_report(params, runs, out)
    except InputError as error:
        # For example, the images of another run are missing.
        raise InputError(earlier or str(error)) from error
    if earlier:
        typer.echo(f"warning: {earlier}", err=True)
    verdicts = {name: told["verdict"] for name, told in read_all(runs, list(params.rounds)).items()}
    typer.echo(f"\n{summary_table(json.loads(metrics.read_text()), verdicts)}\n")
    for name, line in warnings(runs, list(params.rounds)).items():
        typer.echo(f"{name}: {line}")
    typer.echo(f"recommended: {recommended}")
    typer.echo(f"pictures: {out.resolve()}/*.png\npage:     {(out / 'index.html').resolve()}")


@app.command()
def select(
    grid: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE,VALUE of params.yaml; repeat for a grid over several.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Values of training.seed, as in 0,1; adds a dimension to the grid.")] = "",
    run: Annotated[bool, typer.Option("--run", help="Run the grid now, one experiment after the other.")] = False,
    by: Annotated[
        str,
        typer.Option(
            help=f"Indicator to rank by: {', '.join(INDICATORS)}. Default: scale_iou, see docs/explanation/evidence.md."
        ),
    ] = "",
    stage: Annotated[str, typer.Option(help="Stage to rank by: propagate, teach@r01, align, distill.")] = "propagate",
    everything: Annotated[bool, typer.Option("--all", help="Include experiments from other commits.")] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Apply the selected run: dvc exp apply.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the ranking as JSON.")] = False,
) -> None:
    """Rank runs and DVC experiments by indicators measured without labels, or queue a grid of experiments."""
    from atp.selection.grid import make_cells
    from atp.selection.queue import enqueue, work
    from atp.selection.ranking import INDICATOR, choose, to_json
    from atp.selection.repository import (
        WORKSPACE,
        code_changes,
        pipeline_name,
        read_experiments,
        valid_indicator,
        valid_stage,
    )
    from atp.selection.repository import apply as take
    from atp.selection.table import choice_table, queued_lines

    _quiet()
    valid_stage(stage)
    if by:
        valid_indicator(by)
    if grid or seeds:
        cells = make_cells(grid or [], seeds, Path("params.yaml"), code_changes(), pipeline_name())
        typer.echo(queued_lines(enqueue(cells), run=run), err=as_json)
        if not run:
            return
        work(cells)
    elif run:
        raise InputError("--run runs a grid; give one with --grid or --seeds, or start what is queued: dvc queue start")
    choice = choose(read_experiments(stage, everything=everything), by or INDICATOR, stage)
    typer.echo(json.dumps(to_json(choice, stage), indent=2) if as_json else choice_table(choice, stage))
    if apply:
        if choice.picked is None:
            raise InputError("--apply: no run is picked")
        if choice.picked.name != WORKSPACE:
            take(choice.picked.name)
            typer.echo(f"applied: {choice.picked.name}; dvc repro reports and registers it", err=as_json)


Seeds = Annotated[str, typer.Option(help="Values of training.seed.")]
Jobs = Annotated[int, typer.Option(min=1, help="Cells to compute in parallel.")]
Collect = Annotated[bool, typer.Option("--collect", help="Show finished results; compute nothing.")]
On = Annotated[HeldOut, typer.Option(help="Images to measure on; choose settings on the validation images.")]

Bed = Annotated[str, typer.Option("--testbed", help="Data in place of those of params.yaml: atp study lists them.")]
CamVid = Annotated[Path, typer.Option(help="CamVid's public folder, for the testbeds of it.")]
IddLite = Annotated[Path, typer.Option(help="IDD-lite's folder, for the testbeds of it.")]
CAMVID, IDD_LITE = Path("../shared/camvid"), Path("../shared/idd_lite")

Rows = Annotated[bool, typer.Option("--rows", help="Show the printed rows and what is measured here; compute nothing.")]


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="Name of the study; omit it to list all.")] = "",
    seeds: Seeds = "0,1,2",
    jobs: Jobs = 1,
    collect: Collect = False,
    on: On = HeldOut.TEST,
    testbed: Bed = "",
    camvid: CamVid = CAMVID,
    idd_lite: IddLite = IDD_LITE,
) -> None:
    """Compute a study on the data of params.yaml; a cell is a DVC experiment, computed once: docs/how-to/studies.md."""
    from atp.studies import command
    from atp.studies.catalogue import listing

    if not name:
        typer.echo(listing())
        return
    _quiet()
    where = Where(on, testbed, {"camvid": camvid, "idd_lite": idd_lite})
    what = command.study(name, where)
    typer.echo(command.make(where.files(name), what, command.parse_seeds(seeds), jobs, run=not collect))


@app.command()
def table(
    number: Annotated[int, typer.Argument(help="1 to 9: docs/how-to/studies.md.")],
    seeds: Seeds = "0,1,2",
    jobs: Jobs = 1,
    collect: Collect = False,
    on: On = HeldOut.TEST,
    testbed: Bed = "",
    camvid: CamVid = CAMVID,
    idd_lite: IddLite = IDD_LITE,
    rows: Rows = False,
) -> None:
    """Compute a table of the paper on the data of params.yaml, each printed figure beside ours."""
    where = Where(on, testbed, {"camvid": camvid, "idd_lite": idd_lite})
    _numbered("table", number, seeds, jobs, collect, where, rows)


@app.command()
def figure(
    number: Annotated[int, typer.Argument(help="4, 5 or 6: docs/how-to/studies.md.")],
    seeds: Seeds = "0,1,2",
    jobs: Jobs = 1,
    collect: Collect = False,
    on: On = HeldOut.TEST,
    testbed: Bed = "",
    camvid: CamVid = CAMVID,
    idd_lite: IddLite = IDD_LITE,
    rows: Rows = False,
) -> None:
    """Compute a figure of the paper on the data of params.yaml."""
    where = Where(on, testbed, {"camvid": camvid, "idd_lite": idd_lite})
    _numbered("figure", number, seeds, jobs, collect, where, rows)


def _numbered(what: str, number: int, seeds: str, jobs: int, collect: bool, where: Where, rows: bool) -> None:
    from atp.studies import command

    if rows:
        typer.echo(command.rows(what, number))
        return
    _quiet()
    opened = command.numbered(what, number, where)
    name = where.files(f"{what}-{number}")
    typer.echo(command.make(name, opened, command.parse_seeds(seeds), jobs, run=not collect))


def _quiet() -> None:
    """Show our own log lines only; those of DVC's queue do not help here."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.CRITICAL)
    logging.getLogger("atp").setLevel(logging.INFO)


@app.command()
def promote(
    version: Annotated[str, typer.Argument(help="Version number; default: the candidate.")] = "",
    name: Annotated[str, typer.Option(help="Registered model; default: from params.yaml, else atp.")] = "",
    alias: Annotated[str, typer.Option(help="Alias to move; default: from params.yaml, else champion.")] = "",
    why: Annotated[str, typer.Option(help="Reason, stored with the version.")] = "",
) -> None:
    """Make a version the champion; pass an older version to roll back."""
    from atp.registry.gate import promote_by_hand
    from atp.registry.settings import ALIAS_PATTERN
    from atp.runner.tracking import open_client, told

    section = _register_section()
    if not re.fullmatch(ALIAS_PATTERN, alias or section.champion):
        raise InputError(f"--alias {alias}: must be a word other than latest and v1, which MLflow reserves")
    client = open_client()
    with told():
        line = promote_by_hand(client, name or section.name, version, alias or section.champion, section.alias, why)
    typer.echo(line)


def _register_section() -> "RegisterSettings":
    """The section of params.yaml in the working folder, or the defaults if there is no params.yaml."""
    from atp.params import load_params
    from atp.registry.settings import RegisterSettings

    return load_params().register_ if Path("params.yaml").is_file() else RegisterSettings()


@app.command()
def serve(
    model: Annotated[
        str,
        typer.Argument(
            help="models:/NAME@ALIAS, models:/NAME/VERSION, a stage's folder, or a run's, of which the recommended "
            "stage is used; default: the champion of params.yaml."
        ),
    ] = "",
    host: Annotated[str, typer.Option(help="Address to listen on; by default reachable from this machine only.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 5001,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes; each loads the model.")] = 1,
    max_body_mb: Annotated[int, typer.Option(min=1, help="Maximum request size in MiB.")] = 32,
) -> None:
    """Serve a model as MLflow does, with a limit on requests: PNG or JPEG in, mask out."""
    from atp.registry.server import serve as start

    if not model:
        section = _register_section()
        model = f"models:/{section.name}@{section.champion}"
    elif is_run(Path(model)):
        model = _chosen(model)
    start(model, host, port, workers, max_body_mb, partial(typer.echo, err=True))


app.command()(project.adapt)
app.command()(project.init)


def main() -> None:
    """Entry point: bad input ends with one line and code 2, Ctrl-C with one line and code 130."""
    # A file's name may have characters that the terminal lacks.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    with exit_codes():
        app()


if __name__ == "__main__":
    main()
