"""``make serve``: serve the flow as a deployment of this folder, started from Prefect's UI, its API, or a schedule.

python -m flows.serve [--cron "0 3 * * *"]
"""

import argparse
import os
import urllib.request

from atp.errors import InputError, exit_codes
from flows.ui import HOST, PREFECT_PORT

# Poll more often than every ten seconds, Prefect's default, so that the UI responds quickly.
os.environ.setdefault("PREFECT_RUNNER_POLL_FREQUENCY", "2")


def check_server(url: str) -> None:
    """Raise InputError if no Prefect server answers; Prefect's own error has a hundred lines."""
    try:
        urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=10).close()
    except (OSError, ValueError) as error:
        raise InputError(f"{url}: no Prefect server answers ({error}); run make ui, or set PREFECT_API_URL") from error


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
            from flows.adapt import adapt

            # One run at a time, since runs share a folder; others wait.
            adapt.serve(name="adapt", limit=1, schedule=schedule, tags=["atp"])


if __name__ == "__main__":
    main()
