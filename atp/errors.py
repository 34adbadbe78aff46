"""The one exception that means: the input is wrong, not the program; and how a command tells it."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(Exception):
    """Bad input, told in one line: what is wrong, in which file, what to do about it.

    Stages and the command line print it as ``error: ...`` and exit with code 2, without a traceback.
    """


@contextmanager
def exit_codes() -> Iterator[None]:
    """Bad input and a full disk end the process with one line and code 2, without a traceback."""
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(
            f"error: {error.filename or Path.cwd()}: the disk is full; free some space and run again", file=sys.stderr
        )
        sys.exit(2)
