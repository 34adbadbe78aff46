"""The rows of every table: valid, told apart, and one cell where they come to the same."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from atp.data.labels import LabelSpace
from atp.data.masks import write_classes
from atp.data.settings import DataSettings, MaybeLabelled
from atp.datasets.camvid import CLASSES
from atp.datasets.published import DataSet
from atp.errors import InputError
from atp.params import load_params, read_params
from atp.studies import contents, testbeds
from atp.studies.catalogue import STUDIES, exchanged, listing, opened
from atp.studies.cells import RESULT, make_cell, plan
from atp.studies.definitions import ALIGN, PROPAGATE, HeldOut, Setting, Table
from atp.studies.graph import _parsed, content, steps, upstream
from atp.studies.testbeds import DUSK_VALUES, IN_STEPS, QUICK, QUICK_DUSK, ROBUST, TESTBEDS

ROOT = Path(__file__).parents[2]
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


def rows_of(name: str) -> Table:
    return opened(name)[0]


@pytest.mark.parametrize("name", STUDIES)
def test_every_setting_is_valid_and_no_two_rows_are_one(name: str) -> None:
    table = rows_of(name)
    names = [row.name for row in table.rows]
    assert len(set(names)) == len(names)
    planned = plan((setting for row in table.rows for setting in row.settings), [0, 1])
    # Curves cross in the point that params.yaml holds.
    cells = [tuple(planned.cell(setting, 0).name for setting in row.settings) for row in table.rows]
    points = [cell for row, cell in zip(table.rows, cells, strict=True) if not (row.pick or row.default)]
    assert len(set(points)) == len(points)
    searched = [cell for row, cell in zip(table.rows, cells, strict=True) if row.pick]
    assert all(len(set(cell)) == len(cell) for cell in searched)
    assert len({len(cell) for cell in searched}) <= 1, "as many tries for a baseline as for ATP"
    assert len(planned.cells) == 2 * len({name for cell in cells for name in cell})


def test_what_tables_share_is_one_cell() -> None:
    def cells(name: str) -> dict[str, str]:
        return {row.name: make_cell(row.settings[0], 0)[0].name for row in rows_of(name).rows}

    parts = cells("parts")
    assert cells("baselines")["ATP: align, as in params.yaml"] == parts["(b) + weighted diversity = align"]
    assert (
        cells("baselines")["BatchNorm only"] == cells("propagation-after")["BatchNorm only"] == parts["BatchNorm only"]
    )
    assert cells("black-box")["white box: propagate"] == parts["(f) + propagation = propagate"]
    assert cells("propagation-variants")["ClassMix, an averaged teacher"] == parts["(f) + propagation = propagate"]
    assert cells("align-sensitivity")["gamma = 3, as in params.yaml"] == parts["(b) + weighted diversity = align"]
    assert cells("align-sensitivity")["sharpness = 0"] == parts["(c) + plain diversity instead"]


def test_what_later_cells_need_comes_first() -> None:
    table = rows_of("parts")
    planned = plan((setting for row in table.rows for setting in row.settings), [0, 1])
    stages = [cell.name.split("-")[1] for cell in planned.cells]
    assert stages == sorted(stages, key=["source", "align", "teach", "propagate"].index)
    assert [cell.name.rpartition("-")[0] for cell in planned.cells[:2]] == ["paper-source-seed0", "paper-source-seed1"]


def test_a_study_on_other_terms_differs_in_these_from_params_yaml() -> None:
    plain, robust = rows_of("parts"), opened("parts", testbeds.parameters("robust", {}))[0]
    assert [row.name for row in robust.rows[:-1]] == [row.name for row in plain.rows[:-1]]
    for row, other in zip(plain.rows[:-1], robust.rows[:-1], strict=True):
        assert other.settings[0].values == {**IN_STEPS, **ROBUST, **row.settings[0].values}
    quick, _ = opened("evidence", testbeds.parameters("robust", {}, quick=True))
    assert quick.rows[0].settings[0].values == {**IN_STEPS, **ROBUST, **QUICK}


def test_stages_are_compared_with_as_many_steps_if_these_are_known() -> None:
    longer = {
        row.name: row.settings[0].values
        for row in opened("stages", testbeds.parameters("streets", {}))[0].rows
        if "as many steps" in row.name
    }
    assert {name.split(",")[0]: values["propagate.steps"] for name, values in longer.items()} == {
        "align": 220,
        "BatchNorm": 320,
    }
    # From BatchNorm, without align and teach.
    last = longer["BatchNorm, propagate, as many steps as all three"]
    assert (last["align.method"], last["split.model"]) == ("baselines/batchnorm", ALIGN)
    assert not any("as many steps" in row.name for row in rows_of("stages").rows)


def test_on_validation_the_images_change_places_and_nothing_else_does() -> None:
    table, params = opened("black-box", on=HeldOut.VALIDATION)
    other, usual = opened("black-box")
    assert (table.on, other.on) == ("validation", "test")
    assert (params.data.test, params.data.validation) == (usual.data.validation, usual.data.test)
    assert params.data.model_copy(update={"test": None, "validation": None}) == usual.data.model_copy(
        update={"test": None, "validation": None}
    )
    for row, same in zip(table.rows, other.rows, strict=True):
        (setting,), (plain,) = row.settings, same.settings
        # Both are held out, whichever is measured: a stage of the cell is sealed from both.
        white = load_params(Path("params.yaml"), {k: v for k, v in setting.values.items() if ":" not in k}).data
        assert (white.test, white.validation) == (params.data.test, params.data.validation)
        assert make_cell(setting, 0)[0].name != make_cell(plain, 0)[0].name
    box = {name.partition(":")[2]: value for name, value in table.rows[1].settings[0].values.items() if ":" in name}
    black = load_params(Path("black_box/params.yaml"), box).data
    assert (str(black.test.labels), str(black.held_out[1].labels)) == (
        "../data/validation/labels",
        "../data/test/labels",
    )


def test_on_validation_only_the_last_step_is_another_and_models_are_trained_once() -> None:
    trees = [
        read_params(Path("params.yaml"), values) for values in ({}, exchanged(load_params(Path("params.yaml")).data))
    ]
    chains = [upstream(RESULT, steps({".": tree, "paper": {"cell": {"model": PROPAGATE}}})) for tree in trees]
    assert [step.command for step in chains[0]] == [step.command for step in chains[1]]
    assert chains[0][:-1] == chains[1][:-1]
    assert {"data/validation/images", "data/validation/labels"} == {*chains[1][-1].deps} - {*chains[0][-1].deps}


def test_on_validation_without_such_images_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy2(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    set_param(tmp_path / "params.yaml", "data", validation=None)
    opened("parts")
    with pytest.raises(InputError, match=r"data\.validation: null; --on validation needs labelled images"):
        opened("parts", on=HeldOut.VALIDATION)


@pytest.mark.parametrize("bed", [name for name, testbed in TESTBEDS.items() if testbed.pair])
def test_a_testbed_is_prepared_once_and_its_oracle_has_its_labels(
    bed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the classes are the testbed's own
    shutil.copy2(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    prepared: list[tuple[str, Path, str, Path]] = []

    def prepare(source: DataSet, source_root: Path, target: DataSet, target_root: Path, out: Path) -> None:
        prepared.append((source.name, source_root, target.name, target_root))
        (out / "source").mkdir(parents=True)
        (out / "validation").mkdir()
        write_classes(out / "source/classes.yaml", CLASSES)

    monkeypatch.setattr(testbeds, "prepare", prepare)
    roots = {"camvid": tmp_path / "camvid", "idd_lite": tmp_path / "idd"}
    values = testbeds.parameters(bed, roots)
    table, params = opened("parts", values)
    folder = tmp_path / ".atp" / bed
    assert params.data.test.images == folder / "test/images"
    on_validation = opened("parts", values, HeldOut.VALIDATION)[1].data
    assert on_validation.test == MaybeLabelled(images=folder / "validation/images", labels=folder / "validation/labels")
    assert {"sky", "bicyclist"} < set(params.data.label_space().names)
    assert params.source is not None
    oracle = table.rows[-1].settings[0]
    assert oracle.values["data.source.labels"] == str(folder / "target/labels")
    assert oracle.values["source.steps"] == 2 * (params.source.steps or 0) > 0
    assert all(row.settings[0].values["teach.lr"] == values["teach.lr"] for row in table.rows)
    broken, params = opened("evidence", testbeds.parameters(bed, {}, quick=True))
    assert params.data.root == folder
    for row in (*table.rows, *broken.rows):
        load_params(Path("params.yaml"), row.settings[0].values)
    (first,) = prepared
    assert first[1::2] == tuple(tmp_path / name.partition("-")[0] for name in first[::2])
    # As prepared before there were validation images, when more images were test images.
    (folder / "validation").rmdir()
    (folder / "test/images").mkdir(parents=True)
    testbeds.parameters(bed, roots)
    assert prepared == [first, first]
    assert not (folder / "test/images").exists()


def test_a_study_over_a_training_by_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in presets/paper.yaml: epochs of a study replace the steps, and its oracle trains for twice as many."""
    tree = YAML(typ="safe").load(ROOT / "params.yaml")
    for section in ("source", "align", "teach", "propagate"):
        tree[section] |= {"epochs": None, "steps": 300}
    YAML(typ="safe").dump(tree, tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    params = load_params()
    oracle = next(iter(contents.oracle(params)))
    assert oracle.name == "oracle: trained on target labels, 600 steps"
    longer = load_params(overrides=oracle.settings[0].values)
    assert longer.source is not None
    assert (longer.source.epochs, longer.source.steps) == (None, 600)
    for values in (DUSK_VALUES, QUICK, QUICK_DUSK, contents.NO_CHANGE):
        load_params(overrides=values)
    assert next(iter(contents.oracle(load_params(overrides=QUICK)))).name.endswith("16 epochs")


def test_all_studies_are_listed() -> None:
    studies, beds = listing().split("\n\non --testbed:\n")
    assert [line.split()[0] for line in studies.splitlines()] == list(STUDIES)
    assert [line.split()[0] for line in beds.splitlines()] == list(TESTBEDS)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("partss", {}, "no such study; choose from baselines, "),
        ("parts", {"align": {"method": "baselines/tent"}}, "align.method: method/align"),
    ],
)
def test_what_cannot_be_made_is_told(
    name: str, changes: dict[str, dict[str, Any]], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy2(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    for section, values in changes.items():
        set_param(tmp_path / "params.yaml", section, **values)
    with pytest.raises(InputError, match=said):
        opened(name)


def test_baselines_are_also_measured_by_the_sets_of_classes_and_only_those_that_the_network_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    params = load_params(ROOT / "presets/paper-synthia.yaml")
    table = STUDIES["baselines"].table(params)
    assert [name for name, _ in table.columns] == ["mIoU", *params.data.protocols]
    assert len(params.data.protocols) == 1
    for preset in ("paper", "paper-vgg16"):
        rows = STUDIES["baselines"].table(load_params(ROOT / f"presets/{preset}.yaml")).rows
        assert len({len(row.settings) for row in rows if row.pick}) == 1, "as many tries for a baseline as for ATP"
    methods = {
        preset: {
            setting.values.get("align.method")
            for row in STUDIES["baselines"].table(load_params(ROOT / f"presets/{preset}.yaml")).rows
            for setting in row.settings
        }
        for preset in ("paper", "paper-vgg16")
    }
    assert "baselines/batchnorm" in methods["paper"] - methods["paper-vgg16"], "VGG-16 has none"
    assert "baselines/cbst" in methods["paper-vgg16"]


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


def test_a_cell_measures_what_collapses() -> None:
    cell, _ = make_cell(Setting("runs/align", {}), 0)
    assert cell.values["evidence.on_collapse"] == "warn"
    assert make_cell(Setting("runs/align", {"evidence.on_collapse": "revert"}), 0)[0].name != cell.name
