"""Stage ``report``: pictures of the run, and one self-contained page."""

from pathlib import Path

from atp.files import digest
from atp.params import Params
from atp.report.page import build_report
from atp.runner.beside import open_stage_tracker
from atp.runner.process import light_stage, output
from atp.runner.tracking import Tracker

FOLDER = Path("runs/report")


def report(params: Params, tracker: Tracker) -> None:
    """Draw the whole folder, then upload it."""
    with output(FOLDER) as folder:
        build_report(params, Path("runs"), folder)
    tracker.artifacts(FOLDER, "report")
    tracker.finish(FOLDER, digest(FOLDER))


def main() -> None:
    with light_stage("report") as params, open_stage_tracker("report", params, enabled=True) as tracker:
        report(params, tracker)


if __name__ == "__main__":
    main()
