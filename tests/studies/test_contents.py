"""The rows of every table: valid, told apart, and one cell where they come to the same."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from atp.data.labels import LabelSpace
from atp.data.settings import DataSettings
from atp.datasets.label_maps import CLASS_SETS
from atp.errors import InputError
from atp.params import Params, load_params
from atp.studies.cells import make_cell, plan
from atp.studies.contents import FIGURES, TABLES, contents
from atp.studies.definitions import ALIGN, SOURCE, Setting
from atp.studies.graph import _parsed, content

ROOT = Path(__file__).parents[2]
STREETS = [("table", number) for number in (1, 4, 5, 6, 8, 9)] + [("figure", number) for number in FIGURES]
SPACE = LabelSpace(("road", "car"), ((9, 9, 9), (0, 0, 200)))
"""Stands for that of data that are not brought in here."""


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(DataSettings, "label_space", lambda self: SPACE)
    forget()
    yield
    forget()


def forget() -> None:
    content.cache_clear()
    _parsed.cache_clear()


def streets(**changes: Any) -> Params:
    return load_params(ROOT / "params.yaml", changes)


@pytest.mark.parametrize(("what", "number"), STREETS)
def test_every_setting_is_valid_and_no_two_rows_are_one(what: str, number: int) -> None:
    table = contents(what, number, streets())
    names = [row.name for row in table.rows]
    assert len(set(names)) == len(names)
    planned = plan((setting for row in table.rows for setting in row.settings), [0, 1])
    # Curves cross in the point that params.yaml holds.
    cells = [tuple(planned.cell(setting, 0).name for setting in row.settings) for row in table.rows]
    points = [cell for row, cell in zip(table.rows, cells, strict=True) if not (row.pick or row.default)]
    assert len(set(points)) == len(points)
    assert len(planned.cells) == 2 * len({name for cell in cells for name in cell})


def test_what_tables_share_is_one_cell() -> None:
    def cells(what: str, number: int) -> dict[str, str]:
        table = contents(what, number, streets())
        return {row.name: make_cell(row.settings[0], 0)[0].name for row in table.rows}

    parts = cells("table", 5)
    assert cells("table", 1)["ATP: align"] == parts["(c) + weighted diversity = align"]
    assert cells("table", 1)["BatchNorm only"] == cells("table", 8)["BatchNorm only"] == parts["BatchNorm only"]
    assert cells("table", 4)["white box: propagate"] == parts["(f) + propagation = propagate"]
    assert cells("table", 9)["ClassMix, an averaged teacher"] == parts["(f) + propagation = propagate"]
    assert cells("figure", 6)["gamma = 3, as in params.yaml"] == parts["(c) + weighted diversity = align"]
    assert cells("figure", 6)["sharpness = 0"] == parts["(b) + plain diversity"]


def test_what_later_cells_need_comes_first() -> None:
    table = contents("table", 5, streets())
    planned = plan((setting for row in table.rows for setting in row.settings), [0, 1])
    stages = [cell.name.split("-")[1] for cell in planned.cells]
    assert stages == sorted(stages, key=["source", "align", "teach", "propagate"].index)
    assert [cell.name.rpartition("-")[0] for cell in planned.cells[:2]] == ["paper-source-seed0", "paper-source-seed1"]


@pytest.mark.parametrize(
    ("what", "number", "changes", "said"),
    [
        ("table", 2, {}, "SYNTHIA"),
        ("table", 3, {}, "Cross-City"),
        ("table", 7, {}, "paper-vgg16"),
        ("table", 0, {}, "no such table"),
        ("table", 10, {}, "no such table; there are 1, 2"),
        ("figure", 3, {}, "no such figure; there are 4, 5, 6"),
        ("table", 5, {"align.method": "tent"}, "align.method: atp"),
    ],
)
def test_what_cannot_be_made_is_told(what: str, number: int, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        contents(what, number, streets(**changes))


@pytest.mark.parametrize(("number", "preset"), [(2, "paper-synthia"), (3, "paper-cross-city"), (7, "paper-vgg16")])
def test_its_preset_has_what_a_table_needs(number: int, preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load_params(ROOT / f"presets/{preset}.yaml")
    count = {2: 16, 3: 13, 7: 19}[number]
    names = CLASS_SETS[count]
    space = LabelSpace(names, tuple((index, 0, 0) for index in range(count)))
    monkeypatch.setattr(DataSettings, "label_space", lambda self: space)
    table = TABLES[number](params)
    assert table.rows[0].settings[0].model == SOURCE
    assert len(table.columns) == (2 if number == 2 else 1)
    methods = {setting.values.get("align.method") for row in table.rows for setting in row.settings}
    assert ("batchnorm" in methods) == (number != 7), "VGG-16 has none"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a cell's identity is read from, to be changed."""
    for name in ("params.yaml", "dvc.yaml", "data.dvc"):
        shutil.copy2(ROOT / name, tmp_path)
    for name in ("atp", "paper", "black_box"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "runs", ".atp"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def set_param(path: Path, section: str, **values: Any) -> None:
    yaml = YAML(typ="safe")
    tree = yaml.load(path)
    tree[section].update(values)
    yaml.dump(tree, path)


def test_a_cell_is_known_by_what_made_it_and_by_nothing_else(project: Path) -> None:
    def name() -> str:
        forget()
        return make_cell(Setting(ALIGN), 0)[0].name

    first = name()
    params = project / "params.yaml"
    set_param(params, "runtime", threads=1)
    set_param(params, "teach", lr=0.5)
    for path in ("atp/cli.py", "atp/studies/output.py", "atp/stages/teach.py"):
        (project / path).write_text("# changed\n")
    (project / "atp/losses/__pycache__").mkdir()
    (project / "atp/losses/__pycache__/new.pyc").touch()
    assert name() == first, "nothing that align is made by"
    assert make_cell(Setting(ALIGN, {"align.gamma": 3.0}), 0)[0].name == first, "what params.yaml holds already"
    assert make_cell(Setting(ALIGN), 1)[0].name != first
    set_param(params, "align", gamma=2.0)
    assert name() != first
    set_param(params, "align", gamma=3.0)
    assert name() == first
    for path in ("atp/losses/entropy.py", "atp/stages/measure.py"):
        before = (project / path).read_text()
        (project / path).write_text(before + "# changed\n")
        assert name() != first, path
        (project / path).write_text(before)
    imported = project / "data.dvc"
    imported.write_text(imported.read_text().replace("outs:\n- md5: ", "outs:\n- md5: 0"))
    assert name() != first
