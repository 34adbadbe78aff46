"""A process that ends with the one that started it; imported before all that takes time."""

import ctypes
import os
import signal
import sys


def die_with_parent(by: signal.Signals = signal.SIGKILL, parent: int | None = None) -> None:
    """Ask the kernel to end this process with the one that started it (Linux; elsewhere nothing happens).

    Killing ``dvc`` would otherwise leave its stage training on beside the next one. To be called as early as can be:
    whoever started this process may have been killed before.

    Args:
        by: the signal.
        parent: process number of whoever started this one, where that is known.
    """
    if sys.platform != "linux":
        return
    if parent is None:
        parent = os.getppid()
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, by)
    if os.getppid() != parent or _left_behind():
        sys.exit("the process that started this one has ended")


def _left_behind() -> bool:
    """Whether the parent is one that takes in orphans: a process that leads no session has its parent's."""
    session = os.getsid(0)
    try:
        return session != os.getpid() and os.getsid(os.getppid()) != session
    except ProcessLookupError:
        # In a container the parent may be outside.
        return False
