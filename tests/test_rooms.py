"""Imports point one way, and in no circle; what code decides a result is found by them."""

from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from atp.code import imported

ROOT = Path(__file__).parents[1]

ROOMS = (
    ("flows", "cli"),
    ("project",),
    ("doctor",),
    ("checks", "studies"),
    ("selection",),
    ("stages",),
    ("annotations", "export", "masks", "onnx"),
    ("media",),
    ("api", "report"),
    ("registry",),
    ("datasets", "runner"),
    ("params",),
    ("baselines", "mixing"),
    ("evaluation", "method"),
    ("black_box",),
    ("pseudo_labels", "training"),
    ("losses", "models"),
    ("data",),
    ("code", "settings"),
    ("files", "reading"),
    ("errors", "labels", "runs"),
)
"""From the top down. A room imports those below it; settings, labels and how images are read are of the lowest ones."""


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {module(path): path for room in ("atp", "flows") for path in (ROOT / room).rglob("*.py")}
# The files of packages are empty, and every module has that of its own among its imports.
PACKAGES = {name for name, path in FILES.items() if path.name == "__init__.py"}
IMPORTS = {name: {module(file) for file in imported(path)} - {name} - PACKAGES for name, path in FILES.items()}


def room(name: str) -> str:
    top, *rest = name.split(".")
    if rest and rest[-1] in ("settings", "labels", "reading"):
        return rest[-1]
    return rest[0] if top == "atp" and rest else top


def height(name: str) -> int:
    return next(place for place, rooms in enumerate(reversed(ROOMS)) if room(name) in rooms)


def test_every_module_is_in_a_room() -> None:
    known = {name for rooms in ROOMS for name in rooms}
    assert {room(name) for name in FILES} - {"atp"} <= known


@pytest.mark.parametrize("name", sorted(FILES.keys() - PACKAGES))
def test_imports_point_one_way(name: str) -> None:
    for other in IMPORTS[name]:
        if room(other) != room(name):
            assert height(other) < height(name), f"{name} imports {other}"


def test_no_circles() -> None:
    # Raises where there is one.
    assert list(TopologicalSorter(IMPORTS).static_order())
