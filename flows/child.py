"""Run one command with changed parameters, end with the parent process, and restore ``params.yaml``.

    python -m flows.child --parent 4711 --set '{"teach.epochs": 2}' dvc repro --single-item teach@r01

DVC reads parameters only from the file, which contains the changed ones while the command runs. A copy of the original
is kept until it is restored, so that ``put_back`` can undo the change however this process ends.
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
"""Seconds a command may take to end after a request."""


class Asked(BaseException):
    """This process was asked to end."""


def put_back() -> None:
    """Restore params.yaml if a process with changed parameters was killed; edits made since are kept."""
    if not ORIGINAL.exists():
        return
    if CHANGED.exists() and PARAMS.read_bytes() == CHANGED.read_bytes():
        ORIGINAL.replace(PARAMS)
    ORIGINAL.unlink(missing_ok=True)
    CHANGED.unlink(missing_ok=True)


@contextmanager
def changed_params(overrides: Mapping[str, Any]) -> Iterator[None]:
    """Replace dotted entries in ``params.yaml`` temporarily."""
    put_back()
    if not overrides:
        yield
        return
    # JSON is valid YAML, and this file is only machine-read.
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
    """Run the command, which ends with this process, and return its exit code."""
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
    # A second signal must not interrupt the restoring.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise Asked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", type=json.loads, default={}, help="dotted parameters and values, as JSON")
    parser.add_argument("--parent", type=int, required=True, help="process id of the parent")
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
