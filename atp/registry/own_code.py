"""Code packaged with a user's own registered network: project files, or requirements on installed packages."""

import ast
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions, version
from pathlib import Path

from atp.errors import InputError
from atp.models.config import NetworkConfig
from atp.models.own import check_code, project_modules


def copy_own_code(config: NetworkConfig, folder: Path) -> list[str]:
    """Copy the network's code from the project, so that its modules can be imported from ``folder``.

    Returns:
        The required distributions, ``name==version``: those of its factories and those that the copied modules import.

    Raises:
        InputError: code that is neither below ``model.code`` nor in an installed distribution.
    """
    check_code(config)
    known = packages_distributions()
    wanted: set[str] = set()
    for address in config.callables:
        name = address.partition(":")[0]
        top = name.partition(".")[0]
        file = Path(str(sys.modules[name].__file__)).resolve()
        if file in project_modules():
            _copy(config.code.resolve(), _import_root(name, file), folder)
        elif top in known:
            wanted.add(top)
        elif top != "atp":
            raise InputError(
                f"model.factory: {address}: {file} is in no installed package and not in the project, so a registered "
                "model could not include it; move it into the project and set model.code"
            )
    for path in folder.rglob("*.py"):
        wanted |= set(_imported(path)) & known.keys()
    distributions = {name for top in wanted - sys.stdlib_module_names - {"atp"} for name in known[top]}
    return [pinned(name) for name in sorted(distributions)]


def _import_root(name: str, file: Path) -> Path:
    """The folder of ``sys.path`` in which Python found a module."""
    return file.parents[name.count(".") + (file.stem == "__init__")]


def _copy(code: Path, root: Path, folder: Path) -> None:
    if root.is_relative_to(code):
        code = root
    target = folder / code.relative_to(root)
    target.parent.mkdir(parents=True, exist_ok=True)
    if code.is_dir():
        shutil.copytree(code, target, ignore=shutil.ignore_patterns("__pycache__", ".*"), dirs_exist_ok=True)
    else:
        shutil.copyfile(code, target)


def _imported(path: Path) -> Iterator[str]:
    """Top-level names that a module imports from elsewhere; empty if Python cannot parse the file."""
    try:
        # As bytes, since a file may declare its encoding.
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)


def pinned(name: str) -> str:
    """Pin the installed version without its local part (``+cpu``), which package indexes lack."""
    return f"{name}=={version(name).split('+')[0]}"
