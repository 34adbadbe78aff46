"""Stage ``report``: pictures of the run, and one self-contained page."""

from pathlib import Path

from atp.config import Params
from atp.report.page import build_report
from atp.stages.stage import Stage, run_stage


def inputs(params: Params, key: str | None) -> list[Path]:
    made = [Path("runs") / name for name in ("source", "align", "dump", "teach", "split", "propagate", "evaluate")]
    return [*made, params.data.root]


def body(stage: Stage) -> None:
    if not stage.runtime.is_main:
        return
    with stage.output() as folder:
        build_report(stage.params, Path("runs"), folder)
    stage.tracker.artifacts(stage.folder, "report")


def main() -> None:
    run_stage("report", body, inputs, sealed=False)


if __name__ == "__main__":
    main()
