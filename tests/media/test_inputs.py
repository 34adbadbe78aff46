from pathlib import Path

import pytest

from atp.errors import InputError
from atp.media.inputs import inputs_of


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("a/1.png", "a/deeper/2.JPG", "a/.hidden.png", "a/notes.txt", "b/3.png", "b/drive.mp4", "films/x.MOV"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "none").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*given: str) -> dict[str, str]:
    return {sample.name: str(sample.image) for sample in inputs_of(list(map(Path, given)))}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a"], {"1": "a/1.png", "deeper/2": "a/deeper/2.JPG"}),
        (["b"], {"3": "b/3.png", "drive": "b/drive.mp4"}),
        (["films"], {"x": "films/x.MOV"}),
        (["b", "a/1.png"], {"3": "b/3.png", "drive": "b/drive.mp4", "1": "a/1.png"}),
        (["*/*.png"], {"a/1": "a/1.png", "b/3": "b/3.png"}),
        (["a/**/*.JPG"], {"deeper/2": "a/deeper/2.JPG"}),
        (["[ab]"], {"a/1": "a/1.png", "a/deeper/2": "a/deeper/2.JPG", "b/3": "b/3.png", "b/drive": "b/drive.mp4"}),
        (["a/1.png", "a", "a/*.png"], {"1": "a/1.png", "deeper/2": "a/deeper/2.JPG"}),
    ],
)
def test_names_are_paths_below_what_is_given(folder: Path, given: list[str], expected: dict[str, str]) -> None:
    assert names(*given) == expected


def test_a_name_with_brackets_is_a_file_if_there_is_one(folder: Path) -> None:
    (folder / "[1].png").touch()
    assert names("[1].png") == {"[1]": "[1].png"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a", "c.png"], "c.png: no such file or folder of images"),
        (["a/notes.txt"], "a/notes.txt: neither an image (.bmp, .jpeg"),
        (["*.gif"], "*.gif: matches no image or video; check the pattern"),
        (["a/*.txt"], "a/*.txt: matches no image or video; check the pattern"),
        (["none"], "none: no images here"),
    ],
)
def test_what_cannot_be_listed(folder: Path, given: list[str], message: str) -> None:
    with pytest.raises(InputError) as raised:
        names(*given)
    assert str(raised.value).startswith(message)


def test_two_files_of_one_name(folder: Path) -> None:
    (folder / "b/1.png").touch()
    with pytest.raises(InputError, match=r"^b/1.png: has the same name '1' as a/1.png; pass a folder that contains"):
        names("a", "b")
