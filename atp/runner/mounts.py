"""Hides files from a process and all that it starts, by mounts of its own, which no way around Python can open.

Linux gives a process its own view of the file system (``unshare``): to root at any time, to others together with a
user namespace, only while it has a single thread, and not where a container or a distribution forbids it.
"""

import ctypes
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_NEW_MOUNTS, _NEW_USER = 0x20000, 0x10000000
_READ_ONLY, _NO_SUID, _NO_DEVICES, _NO_PROGRAMS, _BIND, _RECURSIVE, _SLAVE = 1, 2, 4, 8, 4096, 16384, 1 << 19
_EMPTY = _READ_ONLY | _NO_SUID | _NO_DEVICES | _NO_PROGRAMS
_CAPABILITIES_3, _DROP_BOUND = 0x20080522, 24
_TAKES_BACK = (18, 19, 21)
"""CAP_SYS_CHROOT, CAP_SYS_PTRACE and CAP_SYS_ADMIN: with one of them, what is hidden could be reached again."""

_entered = False


def enter() -> bool:
    """Give this process its own mounts; whether it has them.

    Call it before a second thread starts. In a user namespace, the process can no longer look into its ancestors, and
    ``die_with_parent`` must be called again.
    """
    global _entered
    if not _entered and possible():
        with suppress(OSError):
            _unshare()
            _entered = True
    return _entered


def possible() -> bool:
    """Whether this process can hide files, tried in another that ends at once."""
    if sys.platform != "linux":
        return False
    child = os.fork()
    if not child:
        code = 1
        with suppress(BaseException):
            _unshare()
            _cover(Path("/"))
            code = 0
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def hide(paths: Iterable[Path]) -> bool:
    """Put emptiness in the place of files and folders, for good; whether that was possible.

    Args:
        paths: those that do not exist are skipped.
    """
    if not enter():
        return False
    try:
        hidden: set[Path] = set()
        for path in sorted({path.resolve() for path in paths if path.exists()}):
            if hidden.isdisjoint(path.parents):
                _cover(path)
                hidden.add(path)
    except OSError:
        return False
    _give_up_capabilities()
    return True


def _unshare() -> None:
    user, group = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if user == 0:
        _check(libc.unshare(_NEW_MOUNTS))
    else:
        _check(libc.unshare(_NEW_MOUNTS | _NEW_USER))
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            Path("/proc/self", name).write_text(text)
    # What is mounted here stays here; what is mounted elsewhere later comes here as well.
    _mount(b"none", Path("/"), None, _RECURSIVE | _SLAVE)


def _cover(path: Path) -> None:
    if path.is_dir():
        _mount(b"none", path, b"tmpfs", _EMPTY, b"size=4k,mode=0")
    else:
        _mount(b"/dev/null", path, None, _BIND)


def _mount(source: bytes, target: Path, kind: bytes | None, flags: int, options: bytes | None = None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.mount(source, os.fsencode(target), kind, ctypes.c_ulong(flags), options))


def _give_up_capabilities() -> None:
    """Those of this process and of every program that it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in _TAKES_BACK:
        libc.prctl(_DROP_BOUND, capability)
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_3, 0)
    # Effective, permitted and inheritable, for the first 32 capabilities and the others.
    sets = (ctypes.c_uint32 * 6)()
    _check(libc.capget(header, sets))
    kept = ~sum(1 << capability for capability in _TAKES_BACK) & 0xFFFFFFFF
    for place in range(3):
        sets[place] &= kept
    _check(libc.capset(header, sets))


def _check(result: int) -> None:
    if result:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
