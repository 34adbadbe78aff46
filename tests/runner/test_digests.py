"""A file is read once, and again when it has changed."""

import os
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import atp.runner.digests
from atp.files import digest
from atp.runner.digests import Digests


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files of a minute ago."""
    (tmp_path / "data/a").mkdir(parents=True)
    for name in ("a/1.png", "a/2.png", "b.png"):
        settled(tmp_path / "data" / name, name.encode())
    return tmp_path / "data"


def settled(path: Path, data: bytes) -> None:
    """Write a file some time before the present."""
    path.write_bytes(data)
    os.utime(path, (time.time() - 60,) * 2)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The files that were read, with how often; a file counts as settled at once."""
    count: Counter[str] = Counter()

    def counted(path: Path) -> str:
        count[path.name] += 1
        return digest(path)

    monkeypatch.setattr(atp.runner.digests, "digest", counted)
    monkeypatch.setattr(atp.runner.digests, "SETTLED_S", -1.0)
    return count


def test_digests_are_those_of_the_bytes(folder: Path, tmp_path: Path, read: Counter[str]) -> None:
    for _ in range(2):
        digests = Digests(tmp_path / "memory/digests.sqlite")
        assert digests.of(folder) == digest(folder)
        assert digests.of(folder / "b.png") == digest(folder / "b.png")
    assert read == {"1.png": 1, "2.png": 1, "b.png": 1}


def rewrite(path: Path) -> None:
    """Other bytes, of the same size and time."""
    before = path.stat()
    path.write_bytes(bytes(reversed(path.read_bytes())))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path: Path) -> None:
    other = path.with_name("other")
    settled(other, b"12345")
    other.replace(path)


@pytest.mark.parametrize("change", [rewrite, replace, lambda path: path.write_bytes(b"more bytes")])
def test_a_file_changed_by_hand_is_read_again(
    folder: Path, tmp_path: Path, read: Counter[str], change: Callable[[Path], None]
) -> None:
    digests = Digests(tmp_path / "digests.sqlite")
    before = digests.of(folder)
    change(folder / "b.png")
    assert digests.of(folder) == digest(folder) != before
    assert read == {"1.png": 1, "2.png": 1, "b.png": 2}


def test_a_removed_file_and_a_new_one_count(folder: Path, tmp_path: Path, read: Counter[str]) -> None:
    digests = Digests(tmp_path / "digests.sqlite")
    found = {digests.of(folder)}
    (folder / "b.png").rename(folder / "c.png")
    found.add(digests.of(folder))
    (folder / "c.png").unlink()
    found.add(digests.of(folder))
    assert len(found) == 3


def test_what_changed_just_now_is_not_remembered(
    folder: Path, tmp_path: Path, read: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atp.runner.digests, "SETTLED_S", 3600.0)
    digests = Digests(tmp_path / "digests.sqlite")
    digests.of(folder / "b.png")
    digests.of(folder / "b.png")
    assert read["b.png"] == 2


def test_a_memory_that_cannot_be_used_is_done_without(folder: Path, tmp_path: Path, read: Counter[str]) -> None:
    (tmp_path / "damaged").write_bytes(b"no database" * 100)
    for memory in (tmp_path / "damaged", folder / "b.png/digests.sqlite"):
        assert Digests(memory).of(folder / "a") == digest(folder / "a")


def test_several_share_one_memory(folder: Path, tmp_path: Path, read: Counter[str]) -> None:
    def of_folder(_: int) -> str:
        return Digests(tmp_path / "digests.sqlite").of(folder)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(of_folder, range(32))) == {digest(folder)}
