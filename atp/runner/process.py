"""A stage as a process: exit codes, lock, seal, and atomic output.

Does not import PyTorch, which would slow down ``report`` and ``register`` by seconds.
"""

import argparse
import errno
import fcntl
import json
import logging
import os
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from atp.errors import InputError, exit_codes
from atp.params import Params, load_params
from atp.runner import mounts
from atp.runner.project import dvc_cache, kept, project_root, shared
from atp.runs import ANSWERS_ON_TEST, folder

STATE = kept() / "state"
"""Training states and unfinished dumps; outside DVC's outputs, which DVC deletes before a rerun."""


@contextmanager
def lock(label: str) -> Iterator[None]:
    """Let only one process at a time work on a stage.

    Raises:
        InputError: another process does.
    """
    STATE.mkdir(parents=True, exist_ok=True)
    with (STATE.parent / f"{label}.lock").open("w") as file:
        # A data loading process can outlive a killed stage by seconds and must not hold its lock.
        os.register_at_fork(after_in_child=file.close)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{file.name}: another process runs the stage {label}; wait for it or end it") from error
        yield


def interrupted(label: str) -> str:
    """The line with which a stage ends after Ctrl-C; empty for one of a launcher's processes, which leave it to it."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return ""
    kept = any(STATE.glob(f"{label}-*"))
    how = f"its training state is kept in {STATE}, and the same command continues from it"
    return f"{label}: interrupted; {how if kept else 'the same command starts it again'}"


def remove_leftovers(folder: Path) -> None:
    """Delete temporary folders of a killed run; the lock is held, so no other process writes to them."""
    for path in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(path)


@contextmanager
def output(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to ``folder`` on success."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        shutil.rmtree(folder, ignore_errors=True)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def light_stage(name: str) -> Iterator[Params]:
    """Run a stage that needs no PyTorch: arguments, parameters, lock; bad input ends it with one line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    argparse.ArgumentParser(prog=f"python -m atp.stages {name}", description=f"Stage {name} of dvc.yaml.").parse_args()
    with exit_codes(partial(interrupted, name)):
        params = load_params()
        with lock(name):
            remove_leftovers(folder(name))
            yield params


def write_json(path: Path, tree: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(tree, indent=2) + "\n")


def prepared_target(params: Params) -> Path:
    """Folder of the target's prepared images."""
    # By its name: what was prepared of another target is not this one's, and may be a source by now.
    name = sha256(str(params.data.target.images).encode()).hexdigest()[:16]
    return shared() / "prepared" / name


def prepared_sealed() -> Path:
    """Folder of all other prepared images and labels."""
    return shared() / "prepared/sealed"


def seal(params: Params, opened: Collection[Path] = ()) -> None:
    """Prevent this process from opening the source data, the held-out images and the target's labels, also as prepared.

    They are hidden from it and from all that it starts, where the system allows that, and with them DVC's cache, unless
    the target's images are links into it. Everywhere, Python refuses to open them and says why.

    Args:
        opened: exceptions that this stage needs; never labels.
    """
    data = params.data
    closed = [path for path in (data.source.root, *(part.images for part in data.held_out)) if path not in opened]
    closed += [part.labels for part in (data.target, *data.held_out) if part.labels is not None]
    with suppress(OSError):
        # It must be there to be hidden, since another stage may fill it later.
        prepared_sealed().mkdir(parents=True, exist_ok=True)
    closed += [folder for folder in prepared_sealed().parent.glob("*") if folder != prepared_target(params)]
    cache = dvc_cache()
    needed = (data.target.images, *opened)
    linked = any(path.resolve().is_relative_to(cache) for folder in needed for path in islice(folder.rglob("*"), 100))
    # An experiment's clone has its own copies of what lies in the project.
    mounts.hide([*closed, *(project_root() / path for path in closed), *([] if linked else [cache])])
    # The folder around it is the result of a stage, which replaces it.
    close([*closed, ANSWERS_ON_TEST], "sealed: this stage must not read source data or target labels")


def close(paths: Collection[Path], why: str) -> None:
    """Let Python refuse to open these files and anything in these folders, also by way of links.

    An audit hook cannot be removed and is inherited by forked processes.
    """
    closed = list(paths)
    prefixes = tuple(f"{path.resolve()}{os.sep}" for path in closed)
    files = {str(path.resolve()) for path in closed if path.is_file()}

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if path.startswith(prefixes) or path in files:
            raise PermissionError(errno.EACCES, why, path)

    sys.addaudithook(refuse)
