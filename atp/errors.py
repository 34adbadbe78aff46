"""The exception for invalid input, and how commands report it and Ctrl-C."""

import errno
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

INTERRUPTED = 128 + signal.SIGINT
"""Exit code after Ctrl-C, as shells have it."""


class InputError(Exception):
    """Invalid input. The message states in one line what is wrong, in which file, and what to do.

    Stages and the command line print it as ``error: ...`` and exit with code 2, without a traceback.
    """


@contextmanager
def exit_codes(interrupted: Callable[[], str] = lambda: "interrupted; run it again") -> Iterator[None]:
    """End the process with one line and code 2 on invalid input or a full disk, with 130 on Ctrl-C; no traceback.

    Args:
        interrupted: see ``interruptible``.
    """
    try:
        with interruptible(interrupted):
            yield
    except InputError as error:
        _end(f"error: {error}\n", 2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _end(f"error: {error.filename or Path.cwd()}: the disk is full; free some space and run again\n", 2)


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
