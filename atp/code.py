"""Find the code of this package that a module needs, and the part of it that affects results.

Stage fingerprints, the code shipped with a registered model and an evaluation's digest are built from it; a test
compares dvc.yaml with it.
"""

import ast
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

from atp.files import digest

PACKAGE = Path(__file__).parent

WHOLE = ("black_box", "data", "evaluation/evidence", "models", "pseudo_labels", "training")
"""Packages that affect results, included whole if a module needs any part of them."""

BY_FILE = ("baselines", "evaluation", "losses", "method", "mixing", "stages")
"""Packages that affect results, included file by file."""


def needed_by(*modules: str) -> list[Path]:
    """Find the files of this package that modules import, directly or indirectly, including inside functions.

    Args:
        modules: dotted names, such as ``atp.registry.model``.

    Returns:
        Sorted; includes the modules' own files and the ``__init__.py`` of their packages.
    """
    return _reached(modules, lambda path: True)


def decisive(*modules: str) -> list[Path]:
    """Find the folders and files of this package that affect what modules compute.

    Commands, tracking and reports do not. Settings are left out too, since results are identified by their values.

    Args:
        modules: dotted names of stages or of the method, such as ``atp.stages.teach``.

    Returns:
        Sorted; folders for the packages in ``WHOLE``, files for those in ``BY_FILE``.
    """
    reached = _reached(modules, lambda path: _room(path) is not None)
    return sorted({room for path in reached if (room := _room(path)) is not None})


def code_digests(*modules: str) -> dict[str, str]:
    """Digests of the code that affects what modules compute, by path below the package."""
    files = (file for path in decisive(*modules) for file in (sorted(path.rglob("*.py")) if path.is_dir() else (path,)))
    return {file.relative_to(PACKAGE).as_posix(): digest(file) for file in files}


def _room(path: Path) -> Path | None:
    """The path to include for a file: its package, or itself; None if it affects no result."""
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
    """The files of this package that a file imports, at any level, with the ``__init__.py`` of their packages."""
    return tuple(file for name in _names(ast.parse(path.read_bytes()).body) for file in _files(name))


def _names(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Names that statements import, except under ``TYPE_CHECKING``."""
    for node in nodes:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from _names(node.orelse)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            # The name may be a submodule.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from _names(ast.iter_child_nodes(node))


def _files(module: str) -> list[Path]:
    """A module's file and its packages' ``__init__.py``; empty if the name is not a module of this package."""
    top, *parts = module.split(".")
    path = PACKAGE.joinpath(*parts)
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if top != PACKAGE.name or not file.is_file():
        return []
    packages = (PACKAGE / folder / "__init__.py" for folder in file.relative_to(PACKAGE).parents)
    return [file, *(package for package in packages if package.is_file())]
