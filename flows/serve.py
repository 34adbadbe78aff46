"""``make serve``: the flow as a deployment of this folder, started from Prefect's UI, its API, or by a schedule.

python -m flows.serve [--cron "0 3 * * *"]
"""

import argparse
import os

from flows.ui import HOST, PREFECT_PORT

# A click in the UI should not wait for Prefect's ten seconds.
os.environ.setdefault("PREFECT_RUNNER_POLL_FREQUENCY", "2")
os.environ.setdefault("PREFECT_API_URL", f"http://{HOST}:{PREFECT_PORT}/api")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cron", help="when to run by itself, as in crontab; never if not given")
    arguments = parser.parse_args()
    from flows.adapt import adapt  # after the address is set, which Prefect reads on import

    # One at a time: two runs would write into the same folder. Others wait.
    adapt.serve(name="adapt", limit=1, cron=arguments.cron, tags=["atp"])


if __name__ == "__main__":
    main()
