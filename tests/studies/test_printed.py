"""Others' figures for the tables: each with its source, and the same in docs/explanation/paper.md."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
PRINTED: dict[str, dict[str, dict[str, Any]]] = YAML(typ="safe").load(ROOT / "atp/studies/printed.yaml")
ENTRIES = [(table, name, entry) for table, rows in PRINTED.items() for name, entry in rows.items()]
BASELINES = {path.stem for path in (ROOT / "atp/baselines").glob("*.py")} - {"__init__"}


def test_baselines_are_named_as_align_method_does() -> None:
    for table, name, _ in ENTRIES:
        if table in ("1", "2", "3"):
            assert name.split(",")[0] in BASELINES | {"source"}


@pytest.mark.parametrize(("table", "name", "entry"), ENTRIES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_figure_has_its_source_and_stands_in_the_docs(table: str, name: str, entry: dict[str, Any]) -> None:
    assert entry.keys() - {"note"} == {"value", "source"}
    repository, path, commit = entry["source"].split()
    assert path == "README.md"
    page = (ROOT / "docs/explanation/paper.md").read_text()
    # One paragraph or table names the source, and it or the next has the figure.
    parts = page[page.index("## Figures that are published") :].split("\n\n")
    told = [place for place, part in enumerate(parts) if repository in part and commit in part.replace("\n", " ")]
    assert told
    assert any(f"{entry['value']}" in part for place in told for part in parts[place : place + 2])
