import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from atp.params import Params
from atp.runner.tracking import Tracker
from atp.stages.report import report


class Recording(Tracker):
    """Keeps the names of what is uploaded."""

    def __init__(self) -> None:
        super().__init__()
        self.uploaded: list[tuple[set[str], str | None]] = []

    def artifacts(self, path: Path, to: str | None = None) -> None:
        self.uploaded.append(({file.name for file in path.iterdir()}, to))


def test_whole_folder_is_uploaded_once_it_is_there(finished: Callable[..., Params]) -> None:
    tracker = Recording()
    report(finished(), tracker)
    ((names, to),) = tracker.uploaded
    assert {"index.html", "predictions.png"} <= names
    assert to == "report"


def test_neither_the_stage_nor_the_command_waits_for_pytorch() -> None:
    code = "import sys, atp.cli, atp.stages.report, atp.stages.register; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
