"""Tables as data, what identifies their cells, and what is made of results."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest

from atp.config import Params, load_params
from atp.errors import InputError
from atp.tables import graph
from atp.tables.cells import make_cell, plan
from atp.tables.command import ALIKE, AllFailError, Watch
from atp.tables.contents import contents
from atp.tables.definitions import ALIGN, SOURCE, Row, Setting, Table, row
from atp.tables.output import bars, curves, markdown, tree
from atp.tables.panels import choose
from atp.tables.printed import printed
from atp.tables.results import Line, State, lines

ROOT = Path(__file__).parents[2]
STREETS = [("table", 1), *(("table", n) for n in (4, 5, 6, 8, 9)), *(("figure", n) for n in (4, 5, 6))]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a cell's digest is of, with the embedded data's classes alone."""
    folder = tmp_path_factory.mktemp("tables") / "project"
    for name in ("atp", "black_box", "paper"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "runs", "box"))
    for name in ("params.yaml", "dvc.yaml", "data.dvc"):
        shutil.copy2(ROOT / name, folder)
    (folder / "data/source").mkdir(parents=True)
    shutil.copy2(ROOT / "assets/streets/source/classes.yaml", folder / "data/source")
    return folder


@pytest.fixture
def params(clone: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Params]:
    monkeypatch.chdir(clone)
    _forget()
    yield load_params()
    _forget()


def _forget() -> None:
    graph.content.cache_clear()
    graph._parsed.cache_clear()


@pytest.mark.parametrize(("what", "number"), STREETS)
def test_rows_have_names_of_their_own_and_parameters_that_are_valid(what: str, number: int, params: Params) -> None:
    table = contents(what, number, params)
    names = [each.name for each in table.rows]
    assert len(set(names)) == len(names)
    planned = plan((setting for each in table.rows for setting in each.settings), [0])
    assert {cell.name for cell in planned.cells} == {cell.name for cell in planned.by_setting.values()}


def test_tables_share_cells(params: Params) -> None:
    names = []
    for what, number in STREETS:
        settings = [each for part in contents(what, number, params).rows for each in part.settings]
        names.append({cell.name for cell in plan(settings, [0]).cells})
    source = make_cell(Setting(SOURCE), 0)[0].name
    assert sum(source in each for each in names) >= 5
    default = Setting(ALIGN, {"align.gamma": params.align.gamma}) if params.align else Setting(ALIGN)
    assert make_cell(default, 0)[0].name == make_cell(Setting(ALIGN), 0)[0].name


@pytest.mark.parametrize(("what", "number"), [("table", n) for n in (0, 2, 3, 7, 10)] + [("figure", 3)])
def test_what_cannot_be_made_of_streets_is_refused(what: str, number: int, params: Params) -> None:
    with pytest.raises(InputError, match=f"{what} {number}: "):
        contents(what, number, params)


def test_a_digest_is_of_what_matters(params: Params, clone: Path) -> None:
    def name(values: dict[str, Any] | None = None, seed: int = 0) -> str:
        _forget()
        return make_cell(Setting(ALIGN, values or {}), seed)[0].name

    before = name()
    assert name({"runtime.workers": 0}) == before
    assert name({"teach.lr": 0.5}) == before
    assert name({"align.lr": 0.5}) != before
    assert name(seed=1) != before
    path = clone / "atp/losses/entropy.py"
    text = path.read_text()
    path.write_text(f"{text}# changed\n")
    assert name() != before
    path.write_text(text)
    (clone / "docs").mkdir()
    (clone / "docs/new.md").touch()
    (clone / "atp/losses/__pycache__").mkdir()
    (clone / "atp/losses/__pycache__/new.pyc").touch()
    assert name() == before
    data = clone / "data.dvc"
    text = data.read_text()
    data.write_text(text.replace("92c13e4c", "00000000"))
    assert name() != before
    data.write_text(text)


def made_up(params: Params) -> tuple[Table, list[Line], list[str]]:
    """Three rows and three seeds, of which the last of the second row is missing."""
    rates = (Setting(ALIGN), Setting(ALIGN, {"align.lr": 0.1}))
    table = Table(
        "made up",
        "A caption.",
        (
            row("source", SOURCE),
            Row("evidence", rates, "evidence", published="max_square"),
            Row("oracle", rates, "labels", published="none"),
        ),
        columns=(("mIoU", ""), ("few", "few")),
        whose="GTA5",
    )
    planned = plan((setting for each in table.rows for setting in each.settings), [0, 1, 2])
    metrics, names = {}, []
    for (place, seed), cell in planned.by_setting.items():
        names.append(cell.name)
        # By agreement the first rate is the better one, by labels the second.
        evidence = {"verdict": "improved", "after": {"scale_iou": 0.9 - 0.1 * place}}
        miou = 30.0 + 5 * place + seed**2
        metrics[cell.name] = {"miou": miou, "protocols": {"few": miou + 10}, "evidence": evidence}
    gone = planned.cell(rates[1], 2).name
    del metrics[gone]
    return table, lines(table, planned, State(metrics, {gone: "failed: no room"}), [0, 1, 2]), [gone]


def test_figures_are_means_and_sample_deviations_of_what_is_picked(params: Params) -> None:
    table, found, (gone,) = made_up(params)
    source, evidence, oracle = found
    assert source.mean() == pytest.approx(95 / 3)
    assert source.deviation() == pytest.approx(stdev([30, 31, 34]))
    assert source.mean("few") == pytest.approx(95 / 3 + 10)
    assert evidence.figures() == [35, 36]
    assert oracle.figures() == [40, 41]
    others = printed("table", 1, table.rows)
    text = markdown("Table 1", table, found, [0, 1, 2], others)
    assert f"- {gone}: failed: no room" in text
    assert "| evidence | 35.5 | 0.7 | +3.8 | 35.0 36.0 | 45.5 | 0.7 | +3.8 | 45.0 46.0 | 45.2 [2] |" in text
    assert "- [2] github.com/ZJULearning/MaxSquareLoss README.md 6119a44f: MaxSquare+IW" in text
    assert [each["mean"] for each in tree("Table 1", table, found, [0, 1, 2], others)["rows"]] == [
        line.mean() for line in found
    ]
    assert bars("Table 1", table, found).startswith(b"\x89PNG")


def test_curves_are_drawn_of_what_there_is(params: Params) -> None:
    figure = contents("figure", 6, params)
    planned = plan((setting for each in figure.rows for setting in each.settings), [0])
    metrics = {cell.name: {"miou": 40.0} for cell in planned.cells[2:]}
    missing = {cell.name: "not begun" for cell in planned.cells[:2]}
    found = lines(figure, planned, State(metrics, missing), [0])
    assert curves("Figure 6", figure, found).startswith(b"\x89PNG")


def test_the_same_image_is_not_shown_twice() -> None:
    assert choose({"a": 1.0, "b": 3.0, "c": 2.0}) == [("best", "b"), ("median", "c"), ("worst", "a")]
    assert choose({"a": 1.0}) == [("best", "a")]


def test_when_all_fail_alike_the_others_are_not_tried(params: Params) -> None:
    cells = plan((Setting(ALIGN, {"align.gamma": gamma}) for gamma in (1.0, 2.0)), [0, 1, 2]).cells
    names = {cell.name: cell.name for cell in cells}
    order = list(names)
    watch = Watch(cells, names, 0)
    watch.left(order[2:], dict.fromkeys(order[:2], "no room"))
    with pytest.raises(AllFailError, match="no room"):
        watch.left(order[ALIKE:], dict.fromkeys(order[:ALIKE], "no room"))
    watch = Watch(cells, names, 0)
    # One of the first ended well.
    watch.left(order[4:], dict.fromkeys(order[:3], "no room"))
