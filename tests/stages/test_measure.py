"""Which predictions a cell keeps."""

from pathlib import Path

from atp.stages.measure import keep


def test_names_with_folders_and_dots(tmp_path: Path) -> None:
    names = ["a", "b.c", "lindau/a", "lindau/b", "ulm/a.b"]
    for name in names:
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    keep(tmp_path, {"b.c", "lindau/a", "ulm/a.b"})
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")}
    assert left == {"b.c.png", "lindau/a.png", "ulm/a.b.png"}
