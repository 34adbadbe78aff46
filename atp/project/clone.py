"""Own data in a clone of this repository, in place of the embedded ones: for studies and the paper's tables."""

import logging
import shutil
from contextlib import chdir
from pathlib import Path

from atp.errors import InputError
from atp.project.make import Tell, edited
from atp.project.request import Request

IMPORT = Path("data.dvc")


def is_clone(folder: Path) -> bool:
    """Whether a folder is a clone of this repository, or a copy of its pipeline with its data."""
    return all((folder / name).exists() for name in (IMPORT, "dvc.yaml", "params.yaml", "atp/stages"))


def import_data(folder: Path, request: Request, tell: Tell) -> None:
    """Import a folder in ATP's layout as the clone's ``data``, and set parameters.

    DVC notices later changes of the original.

    Raises:
        InputError: the request has other than ``data`` and parameters, or the folder does not exist.
    """
    given, changes = request.as_json(), request.changes()
    wrong = [
        name for name in given if name in ("model", "network", "images", "labels", "test", "validation", "classes")
    ]
    if wrong or request.data is None or request.link:
        raise InputError(
            f"{folder}: a clone of ATP's repository, which takes its data whole: --data FOLDER, with source/, target/ "
            "and test/; for anything else, make a project in a new folder"
        )
    origin = request.data.resolve()
    request.parts()
    # Slow import, about a second.
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.WARNING)
    with chdir(folder):
        text = edited(Path("params.yaml").read_text(), changes) if changes else ""
        with Repo(".") as repo:
            repo.remove(str(IMPORT))
            shutil.rmtree("data", ignore_errors=True)
            repo.imp_url(str(origin), "data")
            # An import is frozen, and dvc repro would not notice changes.
            repo.unfreeze(str(IMPORT))
        if text:
            Path("params.yaml").write_text(text)
    tell(f"{folder / 'data'}: imported from {origin}; set data.size, model and source.checkpoint in params.yaml")
