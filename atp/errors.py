"""The exception for invalid input, and how commands report it."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn


class InputError(Exception):
    """Invalid input. The message states in one line what is wrong, in which file, and what to do.

    Stages and the command line print it as ``error: ...`` and exit with code 2, without a traceback.
    """


@contextmanager
def exit_codes() -> Iterator[None]:
    """End the process with one line and code 2 on invalid input or a full disk, without a traceback."""
    try:
        yield
    except InputError as error:
        _end(str(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _end(f"{error.filename or Path.cwd()}: the disk is full; free some space and run again")


def _end(message: str) -> NoReturn:
    # In one write: of several processes that fail together, each line stays whole.
    sys.stderr.write(f"error: {message}\n")
    sys.exit(2)
