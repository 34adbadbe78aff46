"""A process that ends with the one that started it; imported before all that takes time."""

import ctypes
import os
import select
import signal
import sys
from pathlib import Path
from threading import Thread

GONE = "the process that started this one has ended"


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
    if os.getppid() != parent or _takes_in_orphans(parent):
        sys.exit(GONE)


def die_with_dvc() -> None:
    """Ends this process with the ``dvc`` that runs it as a stage, whatever processes are between (Linux).

    DVC starts a stage by ``$SHELL -c``, else by ``/bin/sh -c``. Bash becomes the stage, other shells wait for it and
    outlive a killed ``dvc``, so that to ``die_with_parent`` is not enough.
    """
    stage = os.environ.get("DVC_STAGE")
    if stage is None or sys.platform != "linux":
        return
    dvc = _not_in_stage(stage)
    try:
        descriptor = os.pidfd_open(dvc)
    except ProcessLookupError:
        sys.exit(GONE)
    except OSError:  # A kernel before 5.3, or a sandbox without.
        return
    # It may have ended before it was looked for, and between that and the opening.
    if _takes_in_orphans(dvc) or _not_in_stage(stage) != dvc:
        sys.exit(GONE)
    Thread(target=_end_with, args=(descriptor,), daemon=True).start()


def _not_in_stage(stage: str) -> int:
    """The nearest ancestor that is not itself within this stage of DVC, which tells those it starts which it is."""
    process = os.getppid()
    while process > 1:
        try:
            if f"DVC_STAGE={stage}".encode() not in Path(f"/proc/{process}/environ").read_bytes().split(b"\0"):
                break
            # Behind the name, which may hold anything: the state, then the parent.
            process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        except PermissionError:
            break
        except OSError:  # It has just ended, or there is no /proc.
            return os.getppid()
    return process


def _end_with(descriptor: int) -> None:
    """Wait for the end of another process, and then end this one."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll()
    os.kill(os.getpid(), signal.SIGKILL)


def _takes_in_orphans(ancestor: int) -> bool:
    """Whether that is a process which only took in this one: one that leads no session has that of who started it."""
    session = os.getsid(0)
    try:
        return session != os.getpid() and os.getsid(ancestor) != session
    except ProcessLookupError:
        # In a container the parent may be outside.
        return False
