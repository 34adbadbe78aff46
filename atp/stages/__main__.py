"""A stage as DVC starts it: ``python -m atp.stages NAME [--round KEY]``.

Bad parameters are reported before PyTorch is imported; MLflow is imported in parallel. With ``runtime.processes`` the
stage runs in several processes, under PyTorch's launcher.
"""

import signal

FROM_TERMINAL = signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""Whether Ctrl-C is to end this process; in the background of a shell, it is not."""

if __name__ == "__main__" and FROM_TERMINAL:
    # While modules are imported, an exception would show a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import gc
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

from atp.errors import InputError, exit_codes
from atp.params import load_params
from atp.runner import mounts
from atp.runner.beside import start_ahead
from atp.runner.parent import die_with_parent, watch_of_dvc
from atp.runner.process import interrupted


def main() -> None:
    die_with_parent()
    watch = watch_of_dvc()
    # Before the first thread, without which only root could do it; the kernel then forgets the parent.
    if mounts.enter():
        die_with_parent()
    if watch is not None:
        watch.start()
    name, *arguments = sys.argv[1:] or [""]
    with exit_codes(lambda: interrupted("@".join([name, *arguments[1:2]]))):
        if FROM_TERMINAL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if not name.isidentifier() or not find_spec(f"atp.stages.{name}"):
            raise no_such_stage(name)
        if not {"-h", "--help"} & set(arguments):
            processes = load_params().runtime.processes
            # Garbage collection takes a tenth of the import time and finds nothing.
            gc.disable()
            # A stage that cannot use several processes declares it.
            if processes != 1 and not getattr(import_module(f"atp.stages.{name}"), "ALONE", False):
                sys.exit(launch(name, arguments, processes))
            # ``register`` does not import PyTorch, so there is nothing to overlap with.
            if name != "register":
                start_ahead()
        sys.argv[1:] = arguments
        stage = import_module(f"atp.stages.{name}")
        gc.enable()
        if not hasattr(stage, "main"):
            raise no_such_stage(name)
    stage.main()


def no_such_stage(name: str) -> InputError:
    return InputError(f"python -m atp.stages {name}: no such stage; see dvc.yaml")


def launch(name: str, arguments: Sequence[str], processes: int) -> int:
    """Run a stage in several processes, as ``torchrun`` does; returns the exit code of the first that failed.

    Args:
        processes: 0 starts one per GPU.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    # Its warnings and its failure report would bury the stage's own messages. Some of its loggers have their own level.
    launcher = logging.getLogger("torch.distributed.elastic")
    launcher.setLevel(logging.CRITICAL)
    launcher.addHandler(logging.NullHandler())
    launcher.propagate = False
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // (processes or 1))))
    count = str(processes) if processes else "gpu"
    command = ["--standalone", "--nproc-per-node", count, "--module", f"atp.stages.{name}", *arguments]
    try:
        run(parse_args(command))  # type: ignore[no-untyped-call]
    except SignalException as error:
        # It has ended the processes by the same signal.
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from error
        return 128 + error.sigval
    except ChildFailedError as error:
        return max(1, error.get_first_failure()[1].exitcode)
    except ValueError as error:
        # "gpu" where there is none.
        raise InputError(f"params.yaml: runtime.processes: {error}") from error
    return 0


if __name__ == "__main__":
    try:
        main()
    finally:
        # The result is there, or the line is printed; what libraries do at the exit is not worth a traceback.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
