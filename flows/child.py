"""Runs one command with some parameters changed, ends with whoever started it, and puts ``params.yaml`` back.

    python -m flows.child --parent 4711 --set '{"teach.epochs": 2}' dvc repro --single-item teach@r01

DVC knows parameters only from the file. It holds the changed ones while the command runs; a copy of the original lies
beside it until it is back, so that whatever ends this process, ``put_back`` can undo what it did.
"""

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from atp.files import atomic_path
from atp.params import read_params
from atp.runner.parent import die_with_parent

PARAMS = Path("params.yaml")
ORIGINAL = Path(".atp/params.yaml.original")
CHANGED = Path(".atp/params.yaml.changed")
GRACE_S = 4.0
"""How long a command may take to end once it is asked to."""


class Asked(BaseException):
    """Somebody asked this process to end."""


def put_back() -> None:
    """Restore params.yaml if a process with changed parameters was killed; an edit made meanwhile stands."""
    if not ORIGINAL.exists():
        return
    if CHANGED.exists() and PARAMS.read_bytes() == CHANGED.read_bytes():
        ORIGINAL.replace(PARAMS)
    ORIGINAL.unlink(missing_ok=True)
    CHANGED.unlink(missing_ok=True)


@contextmanager
def changed_params(overrides: Mapping[str, Any]) -> Iterator[None]:
    """``params.yaml`` with dotted entries replaced."""
    put_back()
    if not overrides:
        yield
        return
    # JSON is YAML; nobody reads this file but machines.
    text = json.dumps(read_params(PARAMS, overrides), indent=1) + "\n"
    for path, content in ((CHANGED, text), (ORIGINAL, PARAMS.read_text())):
        with atomic_path(path) as temporary:
            temporary.write_text(content)
    try:
        with atomic_path(PARAMS) as temporary:
            temporary.write_text(text)
        yield
    finally:
        put_back()


def run(command: list[str]) -> int:
    """The command's exit code; it dies with this process."""
    process = subprocess.Popen(command, preexec_fn=die_with_parent)
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise


def _ask(signal_number: int, frame: FrameType | None) -> None:
    # A second one must not interrupt the putting back.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise Asked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", type=json.loads, default={}, help="dotted parameters and their values, as JSON")
    parser.add_argument("--parent", type=int, required=True, help="process number of whoever starts this")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ask)
    die_with_parent(signal.SIGTERM, arguments.parent)
    try:
        with changed_params(arguments.set):
            code = run(arguments.command)
    except Asked:
        code = -signal.SIGTERM
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
