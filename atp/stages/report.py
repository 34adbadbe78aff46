"""Stage ``report``: pictures of the run, and one self-contained page."""

from atp.files import digest
from atp.params import Params
from atp.report.page import build_report
from atp.runner.beside import open_stage_tracker
from atp.runner.process import light_stage, output
from atp.runner.tracking import Tracker
from atp.runs import REPORT, RUNS

ALONE = True


def report(params: Params, tracker: Tracker) -> None:
    """Draw the report folder, then upload it."""
    with output(REPORT) as folder:
        build_report(params, RUNS, folder)
    tracker.artifacts(REPORT, "report")
    tracker.finish(REPORT, digest(REPORT))


def main() -> None:
    with light_stage("report") as params, open_stage_tracker("report", params, enabled=True) as tracker:
        report(params, tracker)


if __name__ == "__main__":
    main()
