"""The exception for invalid input, and how commands report it and Ctrl-C."""

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

INTERRUPTED = 128 + signal.SIGINT
"""Exit code after Ctrl-C, as shells have it."""


DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

UNUSABLE = {
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the disk is read-only",
    errno.ENOTDIR: "a part of its path is a file, not a folder",
    errno.EISDIR: "is a folder, not a file",
    errno.EEXIST: "is in the way",
    errno.ENAMETOOLONG: "its name is too long",
}
"""What is wrong with a path, by the system's error number."""

MOST_NAMED = 3
"""Maximum number of names that a line about many of them lists."""


LONGEST_LINE = 2000
"""Characters of a line about what is wrong."""


class InputError(Exception):
    """Invalid input. The message states in one line what is wrong, in which file, and what to do.

    Stages and the command line print each line as ``error: ...`` and exit with code 2, without a traceback.

    Args:
        lines: several only if the problems are independent of each other.
    """

    def __str__(self) -> str:
        # Libraries quote a damaged file's contents, however long.
        lines = "\n".join(map(str, self.args)).split("\n")
        return "\n".join(line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}..." for line in lines)

    @property
    def lines(self) -> list[str]:
        return str(self).splitlines()


def first_line(error: Exception) -> str:
    """Summarise an exception from third-party code in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def some(names: Sequence[str]) -> str:
    """The first few of many names, and how many more there are."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def counted(number: int, what: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def grouped(problems: Iterable[tuple[str, str, str]]) -> list[str]:
    """One line for all problems of a kind: the first, the number of all, and the names of some others.

    Args:
        problems: of each its kind, the name of what has it, and its line.
    """
    kinds: dict[str, list[tuple[str, str]]] = {}
    for kind, name, line in problems:
        kinds.setdefault(kind, []).append((name, line))
    return [line + alike([name for name, _ in others]) for (_, line), *others in kinds.values()]


def alike(others: Sequence[str]) -> str:
    """The end of a line that is about others too."""
    return f" ({len(others) + 1} alike, also {some(others)})" if others else ""


@contextmanager
def exit_codes(interrupted: Callable[[], str] = lambda: "interrupted; run it again") -> Iterator[None]:
    """End the process with code 2 and a line on invalid input, a full disk or a path that cannot be used, with 1 if a
    process that loads data was killed, with 130 on Ctrl-C; no traceback.

    Args:
        interrupted: see ``interruptible``.
    """
    try:
        with interruptible(interrupted):
            yield
    except InputError as error:
        _end("".join(f"error: {line}\n" for line in error.lines), 2)
    except OSError as error:
        path = error.filename or Path.cwd()
        if error.errno in DISK_FULL:
            _end(f"error: {path}: the disk is full; free some space and run again\n", 2)
        # A path that a stage is sealed from has another reason, and is a fault of the code.
        if error.errno not in UNUSABLE or error.filename is None or error.strerror != os.strerror(error.errno):
            raise
        _end(f"error: {path}: {UNUSABLE[error.errno]}; correct the path, or change what is there\n", 2)
    except RuntimeError as error:
        # PyTorch has no class of its own for it.
        if not str(error).startswith("DataLoader worker"):
            raise
        # Not by the code of bad input, after which nothing tries again.
        _end("error: a data loading process was killed, perhaps for lack of memory; the same command continues\n", 1)


@contextmanager
def interruptible(interrupted: Callable[[], str]) -> Iterator[None]:
    """End the process with one line and code 130 on Ctrl-C, without a traceback.

    Args:
        interrupted: returns the line; empty prints none.
    """
    try:
        yield
    except KeyboardInterrupt:
        # A second one would interrupt the rest, such as ending other processes, and show a traceback.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        line = interrupted()
        _end(f"{line}\n" if line else "", INTERRUPTED)


def _end(text: str, code: int) -> NoReturn:
    # In one write: of several processes that fail together, each line stays whole.
    sys.stderr.write(text)
    sys.exit(code)
