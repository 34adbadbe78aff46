"""Atomic writes of files and folders, and digests."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atp.errors import InputError

SMALLEST = 2**16
"""A disk with fewer free bytes is full: writes are in blocks."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, renamed to ``path`` on success and deleted on failure.

    Its name contains the process id, so that two writers do not collide, and keeps the suffix, from which Pillow and
    others choose the format.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        # Pillow leaves it out for a full disk.
        if error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    except Exception as error:
        # PyTorch and safetensors have errors of their own for it.
        if shutil.disk_usage(path.parent).free < SMALLEST:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a hidden folder beside ``path``, renamed to ``path`` on success and deleted on failure.

    Raises:
        InputError: if ``path`` exists.
    """
    if path.exists():
        raise InputError(f"{path}: exists already; name a new folder")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(path)
    except OSError as error:
        # Where a library leaves it out, as for a full disk; and of a hidden folder nobody knows.
        if error.filename is None or str(error.filename).startswith(str(temporary)):
            error.filename = str(path)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def digest(path: Path) -> str:
    """SHA-256 of a file, or of a folder's file names and contents in sorted order, as 64 hex digits."""
    if path.is_dir():
        total = hashlib.sha256()
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            total.update(f"{file.relative_to(path).as_posix()}\0{digest(file)}\n".encode(errors="surrogateescape"))
        return total.hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
