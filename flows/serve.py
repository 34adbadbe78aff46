"""``make serve``: serve the flow as a deployment of this folder, started from Prefect's UI, its API, or a schedule.

python -m flows.serve [--cron "0 3 * * *"]

Ctrl-C or SIGTERM ends it, and its run: the run becomes ``Crashed``, and its training state is kept.
"""

import argparse
import asyncio
import logging
import multiprocessing
import os
import signal
import sys
import urllib.request
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from atp.errors import InputError, exit_codes
from flows.child import GRACE_S
from flows.ui import FLOW, HOST, PREFECT_PORT

# Poll more often than every ten seconds, Prefect's default, so that the UI responds quickly.
os.environ.setdefault("PREFECT_RUNNER_POLL_FREQUENCY", "2")

RUN_ENDS_S = 3 * GRACE_S
"""Seconds in which a run ends its stage and reports its state."""


class Asked(KeyboardInterrupt):
    """This process was asked to end."""


def check_server(url: str) -> None:
    """Raise InputError if no Prefect server answers; Prefect's own error has a hundred lines."""
    try:
        urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=10).close()
    except (OSError, ValueError) as error:
        raise InputError(f"{url}: no Prefect server answers ({error}); run make ui, or set PREFECT_API_URL") from error


def end_runs(number: int, frame: FrameType | None = None) -> NoReturn:
    """Handle a signal: end the run, then this process, for which Prefect's runner would wait until the run is done."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    # Of how they shut down, which is more than one line.
    for name in ("asyncio", "prefect.runner"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    runs = multiprocessing.active_children()
    for run in runs:
        run.terminate()
    for run in runs:
        run.join(RUN_ENDS_S)
        run.kill()
    ended = "its run has ended, and Retry continues it" if runs else "no run was on"
    sys.stderr.write(f"flows.serve: {signal.Signals(number).name}: no longer served; {ended}\n")
    raise Asked(number)


def serve(schedule: Any) -> None:
    """Serve until a signal arrives."""
    from prefect.runner import Runner

    from flows.adapt import adapt

    class Served(Runner):
        """A runner whose runs end with it."""

        def handle_sigterm(self, *args: Any, **kwargs: Any) -> None:
            end_runs(signal.SIGTERM)

    # One run at a time, since runs share a folder; others wait.
    runner = Served(name=FLOW, limit=1)
    runner.add_flow(adapt, name=FLOW, schedule=schedule, tags=["atp"])
    signal.signal(signal.SIGINT, end_runs)
    print(f"{FLOW}/{FLOW} is served from {Path.cwd()}; Ctrl-C ends it and its run", flush=True)
    asyncio.run(runner.start())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cron", help="schedule as in crontab; none by default")
    arguments = parser.parse_args()
    with exit_codes():
        from prefect.schedules import Cron
        from prefect.settings import PREFECT_API_URL, temporary_settings

        # The user's server, from the environment or a Prefect profile, else that of `make ui`.
        url = PREFECT_API_URL.value() or f"http://{HOST}:{PREFECT_PORT}/api"
        try:
            schedule = Cron(arguments.cron) if arguments.cron else None
        except ValueError as error:
            raise InputError(f'--cron "{arguments.cron}": not a schedule as in crontab, such as "0 3 * * *"') from error
        check_server(url)
        with temporary_settings({PREFECT_API_URL: url}):
            try:
                serve(schedule)
            except Asked as asked:
                sys.exit(128 + asked.args[0])


if __name__ == "__main__":
    main()
