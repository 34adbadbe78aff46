"""Where the project is, also for a process in a folder of it, or in an experiment's temporary clone."""

import os
from pathlib import Path


def project_root() -> Path:
    """The folder that holds ``.dvc``, which shares one tracking database; without one the working folder.

    DVC tells its stages by ``DVC_ROOT``. Those of a queued experiment work in a clone below ``.dvc/tmp``, with a
    ``.dvc`` of its own, that is deleted when they end: of them the variable names the project itself.
    """
    told = os.environ.get("DVC_ROOT")
    if told:
        return Path(told).resolve()
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / ".dvc").is_dir()), here)


def kept() -> Path:
    """Where locks and unfinished states lie: ``.atp``, and of an experiment in a temporary clone below the project's.

    So one that was killed continues when it is queued again under its name.
    """
    name, root = os.environ.get("DVC_EXP_NAME"), project_root()
    if name and Path.cwd().is_relative_to(root / ".dvc/tmp"):
        return root / ".atp/experiments" / name
    return Path(".atp")
