from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from atp.config import Params
from atp.stages.process import output
from atp.stages.report import body


def test_whole_folder_is_uploaded_once_it_is_there(finished: Callable[..., Params]) -> None:
    uploaded: list[tuple[set[str], str]] = []
    folder = Path("runs/report")

    def upload(path: Path, to: str) -> None:
        uploaded.append(({file.name for file in path.iterdir()}, to))

    body(
        SimpleNamespace(
            params=finished(),
            folder=folder,
            runtime=SimpleNamespace(is_main=True),
            tracker=SimpleNamespace(artifacts=upload),
            output=lambda: output(folder),
        )
    )
    ((names, to),) = uploaded
    assert {"index.html", "predictions.png"} <= names
    assert to == "report"
