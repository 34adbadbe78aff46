"""Which code of this package a module needs: the one answer to what code decides a result.

The fingerprints of stages, the code that comes with a registered model and the digest of an evaluation are made of it,
and a test compares dvc.yaml with it.
"""

import ast
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

from atp.files import digest

PACKAGE = Path(__file__).parent

WHOLE = ("black_box", "data", "evaluation/evidence", "models", "pseudo_labels", "training")
"""Rooms that decide results and count as a whole where a module needs a part of them."""

BY_FILE = ("baselines", "evaluation", "losses", "method", "mixing", "stages")
"""Rooms that decide results and of which each file counts by itself."""


def needed_by(*modules: str) -> list[Path]:
    """The files of this package that modules import, directly and indirectly, wherever the import stands.

    Args:
        modules: by their dotted names, ``atp.registry.model``.

    Returns:
        Sorted, with the modules' own files and those of the packages that they lie in.
    """
    return _reached(modules, lambda path: True)


def decisive(*modules: str) -> list[Path]:
    """The folders and files of this package that decide what modules compute.

    What only brings things to the right place or shows them is left out: commands, tracking, reports. So are settings,
    whose values count wherever results are identified.

    Args:
        modules: of stages or of the method, ``atp.stages.teach``.

    Returns:
        Sorted; folders for the rooms in ``WHOLE``, files for those in ``BY_FILE``.
    """
    reached = _reached(modules, lambda path: _room(path) is not None)
    return sorted({room for path in reached if (room := _room(path)) is not None})


def code_digests(*modules: str) -> dict[str, str]:
    """Digests of the code that decides what modules compute, by path below the package."""
    files = (file for path in decisive(*modules) for file in (sorted(path.rglob("*.py")) if path.is_dir() else (path,)))
    return {file.relative_to(PACKAGE).as_posix(): digest(file) for file in files}


def _room(path: Path) -> Path | None:
    """What counts where a file is needed: its room, or itself; None where it decides nothing."""
    name = path.relative_to(PACKAGE).as_posix()
    for room in WHOLE:
        if name.startswith(f"{room}/"):
            return PACKAGE / room
    if not name.startswith(tuple(f"{room}/" for room in BY_FILE)) or path.name in ("__init__.py", "settings.py"):
        return None
    return path


def _reached(modules: Iterable[str], follow: Callable[[Path], bool]) -> list[Path]:
    found: set[Path] = set()
    left = [path for module in modules for path in _files(module)]
    while left:
        path = left.pop()
        if path not in found and follow(path):
            found.add(path)
            left += imported(path)
    return sorted(found)


@cache
def imported(path: Path) -> tuple[Path, ...]:
    """The files of this package that a file imports, itself or in its functions, and those of their packages."""
    return tuple(file for name in _names(ast.parse(path.read_bytes()).body) for file in _files(name))


def _names(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """What statements import, but for what only type checkers see."""
    for node in nodes:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from _names(node.orelse)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            # A name may be a module of that package.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from _names(ast.iter_child_nodes(node))


def _files(module: str) -> list[Path]:
    """A module's file and those of the packages above it; none of another package, or of a name that is no module."""
    top, *parts = module.split(".")
    path = PACKAGE.joinpath(*parts)
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if top != PACKAGE.name or not file.is_file():
        return []
    packages = (PACKAGE / folder / "__init__.py" for folder in file.relative_to(PACKAGE).parents)
    return [file, *(package for package in packages if package.is_file())]
