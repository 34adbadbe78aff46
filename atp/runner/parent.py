"""Ends a process together with its parent; imported before anything slow."""

import ctypes
import os
import select
import signal
import sys
from pathlib import Path
from threading import Thread

GONE = "the process that started this one has ended"


def die_with_parent(by: signal.Signals = signal.SIGKILL, parent: int | None = None) -> None:
    """Ask the kernel to end this process when its parent ends (Linux only; a no-op elsewhere).

    Otherwise a killed ``dvc`` would leave its stage training alongside the next one. Call this as early as possible:
    the parent may already have been killed.

    Args:
        by: the signal.
        parent: process id of the parent, if known.
    """
    if sys.platform != "linux":
        return
    if parent is None:
        parent = os.getppid()
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, by)
    if os.getppid() != parent or _takes_in_orphans(parent):
        sys.exit(GONE)


def watch_of_dvc() -> Thread | None:
    """A thread, still to be started, that ends this process with the ``dvc`` that runs it as a stage (Linux).

    It does so across any processes in between. DVC starts a stage by ``$SHELL -c``, else by ``/bin/sh -c``. Bash
    replaces itself with the stage; other shells wait for it and outlive a killed ``dvc``, so ``die_with_parent`` is not
    enough. Returns None where no ``dvc`` runs it, or none can be watched.
    """
    stage = os.environ.get("DVC_STAGE")
    if stage is None or sys.platform != "linux":
        return None
    dvc = _not_in_stage(stage)
    try:
        descriptor = os.pidfd_open(dvc)
    except ProcessLookupError:
        sys.exit(GONE)
    except OSError:  # A kernel before 5.3, or a sandbox that forbids it.
        return None
    # It may have ended before the search, or between the search and the opening.
    if _takes_in_orphans(dvc) or _not_in_stage(stage) != dvc:
        sys.exit(GONE)
    return Thread(target=_end_with, args=(descriptor,), daemon=True)


def _not_in_stage(stage: str) -> int:
    """The nearest ancestor outside this stage; DVC names the stage in the environment of its processes."""
    process = os.getppid()
    while process > 1:
        try:
            if f"DVC_STAGE={stage}".encode() not in Path(f"/proc/{process}/environ").read_bytes().split(b"\0"):
                break
            # The state and the parent follow the name, which may contain any character.
            process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        except PermissionError:
            break
        except OSError:  # It has just exited, or there is no /proc.
            return os.getppid()
    return process


def _end_with(descriptor: int) -> None:
    """Wait until another process ends, then end this one."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll()
    os.kill(os.getpid(), signal.SIGKILL)


def _takes_in_orphans(ancestor: int) -> bool:
    """Whether the ancestor only adopted this process: a process that leads no session shares its starter's."""
    session = os.getsid(0)
    try:
        return session != os.getpid() and os.getsid(ancestor) != session
    except ProcessLookupError:
        # The parent may be outside the container.
        return False
