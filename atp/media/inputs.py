"""The images and videos that a command is given: files, folders and patterns."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from atp.data.folder import SUFFIXES, Sample, list_samples, unread_files
from atp.errors import InputError

VIDEOS = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})

_WILD = "*?["


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEOS


def inputs_of(given: Sequence[Path]) -> list[Sample]:
    """List images and videos in the order in which they are given; a folder's and a pattern's are sorted by name.

    A folder stands for all images and videos below it, at any depth. The name of a file is its path below the folder or
    below the part of the pattern before the first wildcard; that of a file given by itself is its own name.

    Args:
        given: files, folders, or patterns such as ``cam*/**/*.png``, where ``**`` stands for folders at any depth.

    Raises:
        InputError: if there is nothing, another kind of file is given, or two files have one name.
    """
    found: dict[str, Sample] = {}
    for path in given:
        for sample in _listed(path):
            other = found.setdefault(sample.name, sample)
            if other is not sample and other.image.resolve() != sample.image.resolve():
                raise InputError(
                    f"{sample.image}: has the same name {sample.name!r} as {other.image}; pass a folder that contains "
                    "both, or write to two folders"
                )
    return list(found.values())


def _listed(path: Path) -> Iterator[Sample]:
    if path.is_dir():
        yield from _in_folder(path)
    elif path.exists():
        if not _is_supported(path):
            raise InputError(f"{path}: neither an image ({_kinds(SUFFIXES)}) nor a video ({_kinds(VIDEOS)})")
        yield Sample(path.stem, path, None)
    elif any(letter in str(path) for letter in _WILD):
        yield from _matching(path)
    else:
        raise InputError(f"{path}: no such file or folder of images")


def _in_folder(folder: Path) -> list[Sample]:
    videos = [file for file in unread_files(folder) if is_video(file)]
    # A folder without images is an error only if it has no videos either.
    images = (
        list_samples(folder) if not videos or any(_is_supported(file, SUFFIXES) for file in folder.rglob("*")) else []
    )
    named = [Sample(file.relative_to(folder).with_suffix("").as_posix(), file, None) for file in videos]
    return images + named


def _matching(pattern: Path) -> Iterator[Sample]:
    fixed = next(number for number, part in enumerate(pattern.parts) if any(letter in part for letter in _WILD))
    root = Path(*pattern.parts[:fixed])
    matches = root.glob("/".join(pattern.parts[fixed:]))
    files = {file for match in matches for file in (match.rglob("*") if match.is_dir() else [match])}
    supported = sorted(file for file in files if _is_supported(file))
    if not supported:
        raise InputError(f"{pattern}: matches no image or video; check the pattern")
    for file in supported:
        yield Sample(file.relative_to(root).with_suffix("").as_posix(), file, None)


def _is_supported(path: Path, kinds: frozenset[str] = SUFFIXES | VIDEOS) -> bool:
    return path.suffix.lower() in kinds and not path.name.startswith(".")


def _kinds(suffixes: frozenset[str]) -> str:
    return ", ".join(sorted(suffixes))
