"""A stage as DVC starts it: ``python -m atp.stages NAME [--round KEY]``.

Bad parameters are told before PyTorch's import, and MLflow's runs beside it.
"""

import gc
import sys
from importlib import import_module

from atp.config import load_params
from atp.errors import InputError, exit_codes
from atp.stages.beside import start_ahead

STAGES = ("source", "align", "dump", "teach", "split", "propagate", "evaluate", "report", "register")


def main() -> None:
    name, *arguments = sys.argv[1:] or [""]
    with exit_codes():
        if name not in STAGES:
            raise InputError(f"python -m atp.stages {name}: no such stage; it must be one of {', '.join(STAGES)}")
        if not {"-h", "--help"} & set(arguments):
            load_params()
            # Collecting garbage while modules are imported takes a tenth of the time and finds nothing.
            gc.disable()
            # ``register`` mostly finds that there is nothing to do.
            if name != "register":
                start_ahead()
    sys.argv[1:] = arguments
    stage = import_module(f"atp.stages.{name}")
    gc.enable()
    stage.main()


if __name__ == "__main__":
    main()
