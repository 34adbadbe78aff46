"""``make serve``: the flow as a deployment of this folder, started from Prefect's UI, its API, or by a schedule.

python -m flows.serve [--cron "0 3 * * *"]
"""

import argparse
import os
import urllib.request

from atp.errors import InputError, exit_codes
from flows.ui import HOST, PREFECT_PORT

# A click in the UI should not wait for Prefect's ten seconds.
os.environ.setdefault("PREFECT_RUNNER_POLL_FREQUENCY", "2")


def check_server(url: str) -> None:
    """Raise InputError if no Prefect answers there, which Prefect itself tells in a hundred lines."""
    try:
        urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=10).close()
    except (OSError, ValueError) as error:
        raise InputError(f"{url}: no Prefect server answers ({error}); run make ui, or set PREFECT_API_URL") from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cron", help="when to run by itself, as in crontab; never if not given")
    arguments = parser.parse_args()
    with exit_codes():
        from prefect.schedules import Cron
        from prefect.settings import PREFECT_API_URL, temporary_settings

        # The user's own, from the environment or a profile of Prefect's, else that of `make ui`.
        url = PREFECT_API_URL.value() or f"http://{HOST}:{PREFECT_PORT}/api"
        try:
            schedule = Cron(arguments.cron) if arguments.cron else None
        except ValueError as error:
            raise InputError(f'--cron "{arguments.cron}": not a schedule as in crontab, such as "0 3 * * *"') from error
        check_server(url)
        with temporary_settings({PREFECT_API_URL: url}):
            from flows.adapt import adapt

            # One at a time: two runs would write into the same folder. Others wait.
            adapt.serve(name="adapt", limit=1, schedule=schedule, tags=["atp"])


if __name__ == "__main__":
    main()
