"""README.md and docs/: what they name exists. `make docs` checks the links between pages."""

import ast
import inspect
import re
import runpy
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

import atp
from atp.cli import app
from atp.params import Params

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_readme_links_to_files() -> None:
    links = re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text())
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_programs_exist(page: Path) -> None:
    # What extending a project shows is made by its reader.
    text = re.sub(r"```python\n# atp/.*?```", "", page.read_text(), flags=re.DOTALL)
    made = {
        path.removesuffix(".py").replace("/", ".") for path in re.findall(r"```python\n# (atp/\S+)", page.read_text())
    }
    modules = {name for name in re.findall(r"python -m ((?:atp|flows)[\w.]*)", text) if name not in made}
    assert [name for name in sorted(modules) if find_spec(name) is None] == []
    files = re.findall(r"python ((?:benchmarks|docs)/[\w/.]+\.py)", text)
    assert [name for name in files if not (ROOT / name).is_file()] == []


def test_pages_that_code_names_exist() -> None:
    folders = ("atp", "benchmarks", "black_box", "flows", "paper", "presets", "tests")
    files = [
        file for folder in folders for file in (ROOT / folder).rglob("*") if file.suffix in (".py", ".yaml", ".md")
    ]
    files += [ROOT / name for name in ("Dockerfile", "Makefile", "compose.yaml", "params.yaml", "prefect.yaml")]
    named = {(page, file) for file in files for page in re.findall(r"docs/[\w/-]+\.\w+", file.read_text())}
    assert len(named) > 20
    assert [(page, file) for page, file in sorted(named) if not (ROOT / page).is_file()] == []


def test_every_command_is_listed() -> None:
    text = (ROOT / "docs/reference/commands.md").read_text()
    names = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    names |= {group.name or "" for group in app.registered_groups}
    assert set(re.findall(r"`atp ([a-z]+)", text)) == names
    targets = set(re.findall(r"^(\w+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)) - {"help"}
    assert set(re.findall(r"`make ([a-z]+)", text)) == targets


def test_the_reference_of_settings_is_made_from_their_classes() -> None:
    made = runpy.run_path(str(ROOT / "docs/settings.py"))
    assert (ROOT / "docs/reference/settings.md").read_text() == made["page"](), "run python docs/settings.py"
    sections = {field.alias or name for name, field in Params.model_fields.items()}
    assert set(made["SECTIONS"]) - {made["TRAINING"]} == sections


def test_the_reference_has_the_functions_signatures() -> None:
    text = (ROOT / "docs/reference/python.md").read_text()
    nodes = [node for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) for node in ast.parse(block).body]
    shown = {node.name: f"({ast.unparse(node.args)})" for node in nodes if isinstance(node, ast.FunctionDef)}
    assert shown == {name: signature(getattr(atp, name)) for name in ("adapt", "wrap", "load_model", "predict")}


def signature(function: Callable[..., object]) -> str:
    """A function's arguments and defaults, without types."""
    found = inspect.signature(function)
    bare = [each.replace(annotation=each.empty) for each in found.parameters.values()]
    text = str(found.replace(parameters=bare, return_annotation=found.empty))
    return text.replace(repr(atp.AdaptSettings()), "AdaptSettings()")
