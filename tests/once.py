"""What several processes of a test run need is made by the first that asks for it."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that all of xdist's processes share.

    Args:
        make: fills the folder, which exists and is empty.
    """
    base = factory.getbasetemp()
    # The parent of the processes' own folders.
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, done = root / name, root / f"{name}.done"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert done.exists() or not folder.exists(), f"another process failed to make {folder}"
        if not done.exists():
            folder.mkdir()
            make(folder)
            done.touch()
    return folder
