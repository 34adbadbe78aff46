"""Digests of files, each computed once for all stages and remembered by what the system says of the file.

DVC has digests of what it tracks, but no public interface says of which bytes: ``dvc.lock`` and the listings in its
cache have no times, its own memory of hashes is internal, and its cache is hidden from sealed stages. A stage that
trusted ``dvc.lock`` would not notice a file changed by hand since. So this is a memory of our own, like DVC's.
"""

import os
import sqlite3
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from hashlib import sha256
from pathlib import Path

from atp.files import digest

SETTLED_S = 2.0
"""A file changed less than this many seconds ago is not remembered: the next change could fall into the same tick of
the file system's clock."""

_TABLE = "CREATE TABLE IF NOT EXISTS digests (path BLOB PRIMARY KEY, seen TEXT NOT NULL, digest TEXT NOT NULL)"


class Digests:
    """SHA-256 of files and folders, as ``atp.files.digest`` computes them.

    A file is read again if its size, its times or its place on the disk have changed. Several processes may use one
    memory. Where it cannot be used, such as on a full disk, all files are read.
    """

    def __init__(self, memory: Path) -> None:
        """``memory`` is the database; it is created when the first digest is remembered."""
        self._memory = memory

    def of(self, path: Path) -> str:
        """Digest of a file, or of a folder's file names and contents in sorted order, as 64 hex digits."""
        if not path.is_dir():
            return self.of_files([path])[path]
        files = sorted(file for file in path.rglob("*") if file.is_file())
        total = sha256()
        for file, own in self.of_files(files).items():
            total.update(f"{file.relative_to(path).as_posix()}\0{own}\n".encode(errors="surrogateescape"))
        return total.hexdigest()

    def of_files(self, files: Iterable[Path]) -> dict[Path, str]:
        """Digests of files, in their order."""
        seen = {file: _seen(file) for file in files}
        known = self._recalled(seen)
        found = {file: known.get(file) or digest(file) for file in seen}
        self._remember({file: (seen[file], own) for file, own in found.items() if file not in known})
        return found

    def _recalled(self, seen: Mapping[Path, str]) -> dict[Path, str]:
        """Digests of the files that have not changed."""
        known: dict[Path, str] = {}
        query = "SELECT digest FROM digests WHERE path = ? AND seen = ?"
        try:
            with closing(self._opened()) as database:
                for file, now in seen.items():
                    for (own,) in database.execute(query, (_name(file), now)):
                        known[file] = own
        except (OSError, sqlite3.Error):
            return {}
        return known

    def _remember(self, found: Mapping[Path, tuple[str, str]]) -> None:
        now = time.time_ns()
        rows = [
            (_name(file), then, own)
            for file, (then, own) in found.items()
            # It must not have changed while it was read, either.
            if _seen(file) == then and now - _changed_ns(file) > SETTLED_S * 1e9
        ]
        if not rows:
            return
        try:
            with closing(self._opened()) as database, database:
                database.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?)", rows)
        except (OSError, sqlite3.Error):
            return

    def _opened(self) -> sqlite3.Connection:
        self._memory.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self._memory, timeout=30)
        database.execute(_TABLE)
        return database


def _name(file: Path) -> bytes:
    # Not every name is text.
    return os.fsencode(file.absolute())


def _seen(file: Path) -> str:
    """What the system says of a file; another text if it changed."""
    found = file.stat()
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino} {found.st_dev}"


def _changed_ns(file: Path) -> int:
    found = file.stat()
    return max(found.st_mtime_ns, found.st_ctime_ns)
