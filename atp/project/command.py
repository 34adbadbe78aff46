"""The commands ``atp init`` and ``atp adapt``."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from atp.project.request import Request

Model = Annotated[Path | None, typer.Option(help="The source model: a state dict, .pth or .safetensors.")]
Network = Annotated[
    str,
    typer.Option(
        help="Its network: hf:FOLDER, torchvision:deeplabv3_resnet50, smp:Unet?encoder_name=resnet18, or "
        "package.module:callable."
    ),
]
Images = Annotated[
    Path | None, typer.Option(help="Images of the new domain: a folder, or one with images/ and labels/ in it.")
]
Labels = Annotated[Path | None, typer.Option(help="Labels of these images, only to measure with.")]
Test = Annotated[Path | None, typer.Option(help="Held-out images to measure on; a folder like --images.")]
Validation = Annotated[
    Path | None, typer.Option(help="More held-out images, to choose settings on; a folder like --images.")
]
Data = Annotated[
    Path | None,
    typer.Option(help="A folder with source/, target/, test/ and validation/: docs/how-to/own-data.md."),
]
Classes = Annotated[Path | None, typer.Option(help="A YAML list of the classes' names; default: a guess.")]
Size = Annotated[str, typer.Option(help="WIDTHxHEIGHT at which images are read; default: a guess.")]
Epochs = Annotated[int | None, typer.Option(min=1, help="Epochs of each training stage.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Random seed.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE of params.yaml; repeat for several.")]
Link = Annotated[bool, typer.Option("--link", help="Leave images where they are; do not copy them.")]


def init(
    folder: Annotated[Path, typer.Argument(help="The new project's folder.")],
    model: Model = None,
    network: Network = "",
    images: Images = None,
    labels: Labels = None,
    test: Test = None,
    validation: Validation = None,
    data: Data = None,
    classes: Classes = None,
    size: Size = "",
    epochs: Epochs = None,
    device: Device = "",
    seed: Seed = None,
    values: Set = None,
    link: Link = False,
) -> None:
    """Make a project of your own in a new folder: data, params.yaml and dvc.yaml, with git and DVC.

    In a clone of ATP's repository, `atp init . --data FOLDER` replaces the embedded data.
    """
    from atp.project.clone import import_data, is_clone  # torch takes seconds, which --help should not
    from atp.project.make import make_project

    given = (model, network, images, labels, test, validation, data, classes, size, epochs, device, seed)
    request, tell = Request(*given, tuple(values or ()), link), partial(typer.echo, err=True)
    if is_clone(folder):
        import_data(folder, request, tell)
        return
    make_project(folder, request, tell)
    typer.echo(
        f"made {folder}; next:\n"
        f"  cd {folder}\n"
        "  atp doctor    # checks data, parameters and model\n"
        "  dvc repro     # adapts the model\n"
        "  atp report    # shows the results"
    )


def adapt(
    out: Annotated[Path, typer.Option(help="The project's folder, made if it does not exist.")],
    model: Model = None,
    network: Network = "",
    images: Images = None,
    labels: Labels = None,
    test: Test = None,
    validation: Validation = None,
    data: Data = None,
    classes: Classes = None,
    size: Size = "",
    epochs: Epochs = None,
    device: Device = "",
    seed: Seed = None,
    values: Set = None,
    link: Link = False,
) -> None:
    """Adapt a model to a folder of images: make a project, run it, and write the images' masks."""
    from atp.project.run import adapt as run

    given = (model, network, images, labels, test, validation, data, classes, size, epochs, device, seed)
    run(out, Request(*given, tuple(values or ()), link), typer.echo)
