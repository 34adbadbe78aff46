"""Locate the project, also from one of its folders or from an experiment's temporary clone."""

import os
from configparser import ConfigParser
from pathlib import Path
from typing import Any

from atp.settings import read_yaml


def project_root() -> Path:
    """The folder that contains ``.dvc`` and the tracking database; the working folder if there is none.

    DVC passes it to its stages as ``DVC_ROOT``. The stages of a queued experiment run in a temporary clone below
    ``.dvc/tmp`` with its own ``.dvc``; for them the variable names the project itself.
    """
    told = os.environ.get("DVC_ROOT")
    if told:
        return Path(told).resolve()
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / ".dvc").is_dir()), here)


def kept() -> Path:
    """Folder of locks and unfinished states: ``.atp``; for a queued experiment, a folder below the project's ``.atp``.

    A killed experiment therefore continues when it is queued again under its name.
    """
    name, root = os.environ.get("DVC_EXP_NAME"), project_root()
    if name and Path.cwd().is_relative_to(root / ".dvc/tmp"):
        return root / ".atp/experiments" / name
    return Path(".atp")


def shared() -> Path:
    """Folder of what all pipelines and experiments of the project share."""
    return project_root() / ".atp"


def dvc_cache() -> Path:
    """The folder of DVC's cache."""
    root = project_root() / ".dvc"
    config = ConfigParser(interpolation=None, strict=False)
    config.read([root / "config", root / "config.local"])
    # Relative to the file in which it is set.
    return (root / config.get("cache", "dir", fallback="cache").strip("\"'")).resolve()


def dvc_digest(data: Path) -> str:
    """DVC's digest of an imported folder, from the file that describes the import; empty if DVC has not imported it."""
    described = data.with_name(f"{data.name}.dvc")
    if not described.is_file():
        return ""
    tree: Any = read_yaml(described)
    return str(tree["outs"][0].get("md5") or "")
