"""Run one command that ends with this process, which ends with its parent.

python -m flows.child --parent 4711 dvc repro --single-item teach@r01
"""

import argparse
import signal
import subprocess
import sys
from types import FrameType

from atp.runner.parent import die_with_parent

GRACE_S = 4.0
"""Seconds a command may take to end after a request."""


class Asked(BaseException):
    """This process was asked to end."""


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
    # A second signal must not interrupt the ending of the command.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise Asked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parent", type=int, required=True, help="process id of the parent")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ask)
    die_with_parent(signal.SIGTERM, arguments.parent)
    try:
        code = run(arguments.command)
    except Asked:
        code = -signal.SIGTERM
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
