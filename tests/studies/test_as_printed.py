"""The paper's tables and figures: every computed row has a place in the print, and ours stands beside it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from atp.errors import InputError
from atp.params import Params, load_params
from atp.selection.grid import Cell
from atp.studies.as_printed import HERE, NUMBERS
from atp.studies.cells import Plan, make_cell, plan
from atp.studies.comparison import comparison, picture, rows_and_settings
from atp.studies.definitions import ALIGN, PROPAGATE, SOURCE, Table
from atp.studies.graph import _parsed, content
from atp.studies.paper import columns, printed
from atp.studies.results import State, lines

ROOT = Path(__file__).parents[2]
TABLES, FIGURES = NUMBERS["table"], NUMBERS["figure"]


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(ROOT)
    for cached in (content, _parsed):
        cached.cache_clear()
    yield
    for cached in (content, _parsed):
        cached.cache_clear()


def streets() -> Params:
    return load_params(ROOT / "params.yaml")


def preset(name: str) -> Params:
    return load_params(ROOT / f"presets/{name}.yaml")


def settings(table: Table) -> dict[str, tuple[str, dict[str, Any]]]:
    return {row.name: (row.settings[0].model, dict(row.settings[0].values)) for row in table.rows}


@pytest.mark.parametrize("number", TABLES)
def test_every_computed_row_is_valid_and_has_a_printed_row_or_cell(number: int) -> None:
    table = TABLES[number](streets())
    places = [row.place for row in table.rows]
    known = {(row.name, row.city) for row in printed(number)} | {(row.name, HERE) for row in printed(number)}
    assert len(set(places)) == len(places)
    for place in places:
        assert place is not None
        assert (place.row, place.city) in known
        assert place.column in ("", *columns(number))
    plan((setting for row in table.rows for setting in row.settings), [0])


@pytest.mark.parametrize("number", FIGURES)
def test_figures_are_valid_and_no_point_is_there_twice(number: int) -> None:
    table = FIGURES[number](streets())
    assert len({row.name for row in table.rows}) == len(table.rows)
    for row in table.rows:
        load_params(ROOT / "params.yaml", row.settings[0].values)


def test_every_row_of_atp_is_computed() -> None:
    """In tables of methods; the others consist of nothing else."""
    for number in (1, 2, 4, 5, 7):
        ours = {row.name for row in printed(number) if row.group in ("ours", "baseline")}
        assert ours <= settings(TABLES[number](streets())).keys()
    for number in (6, 8, 9):
        cells = {f"{row.name}, {column}" for row in printed(number) for column in row.values}
        assert settings(TABLES[number](streets())).keys() == cells


def test_what_tables_share_is_one_cell() -> None:
    def cell(number: int, name: str) -> str:
        (row,) = (row for row in TABLES[number](streets()).rows if row.name == name)
        return make_cell(row.settings[0], 0)[0].name

    assert cell(1, "ATP") == cell(2, "ATP") == cell(5, "(f)") == cell(6, "0.5, ClassMix [70]")
    assert cell(1, "ATP (w/o TP)") == cell(5, "(b)") == cell(9, "mIoU, 3")
    assert cell(5, "(d)") == cell(8, "mIoU, 0.65")
    assert cell(5, "(e)") == cell(6, "0.3, Baseline")
    assert len({cell(9, f"mIoU, {sharpness}") for sharpness in range(1, 6)}) == 5


def test_the_ablation_adds_one_part_at_a_time() -> None:
    rows = settings(TABLES[5](streets()))
    assert rows["Baseline"] == (SOURCE, {})
    assert rows["(a)"] == (ALIGN, {"align.diversity": 0.0})
    assert rows["(b)"] == (ALIGN, {})
    assert rows["(c)"] == (ALIGN, {"align.weighted": False})
    assert rows["(d)"] == ("runs/teach/r01", {"teach.negative": 0.0})
    assert rows["(e)"] == ("runs/teach/r01", {})
    assert rows["(f)"] == (PROPAGATE, {})


def test_table_4_adds_photometric_augmentation_last() -> None:
    rows = settings(TABLES[4](streets()))
    for stage in ("distill", "teach", "propagate"):
        jitter = f"black_box/params.yaml:{stage}.augmentation.jitter"
        names = ("Baseline", "ATP (w/o P)", "ATP", "ATP (aug)")
        assert [rows[name][1].get(jitter) for name in names] == [0.0, 0.0, 0.0, None]


@pytest.mark.parametrize(
    ("name", "own"), [("streets", {"model.backbone": "vgg16", "model.output_stride": 8}), ("paper-vgg16", {})]
)
def test_table_7_is_of_vgg16_whatever_the_network_is(name: str, own: dict[str, Any]) -> None:
    assert settings(TABLES[7](preset(name))) == {"Baseline": (SOURCE, own), "ATP (Ours)": (PROPAGATE, own)}


def test_table_3_has_the_cities_that_are_beside_each_other(tmp_path: Path) -> None:
    alone = settings(TABLES[3](streets()))
    assert f"{HERE}, ATP" in alone
    for city in ("Rome", "Tokyo"):
        (tmp_path / city).mkdir()
    data = streets().data
    rome = {
        "root": tmp_path / "Rome",
        "target": {"images": tmp_path / "Rome/target/images", "labels": None},
        "test": {"images": tmp_path / "Rome/test/images", "labels": tmp_path / "Rome/test/labels"},
    }
    params = streets().model_copy(update={"data": type(data).model_validate(data.model_dump() | rome)})
    rows = settings(TABLES[3](params))
    assert {name.partition(",")[0] for name in rows} == {"Rome", "Tokyo"}
    assert rows["Rome, ATP"] == (PROPAGATE, {})
    assert rows["Tokyo, ATP"][1] == {
        "data.root": f"{tmp_path}/Tokyo",
        "data.target.images": f"{tmp_path}/Tokyo/target/images",
        "data.test.images": f"{tmp_path}/Tokyo/test/images",
        "data.test.labels": f"{tmp_path}/Tokyo/test/labels",
    }
    assert "align.method" in rows["Tokyo, URMA"][1], "the city's own images, with the baseline"
    rome["test"] = {"images": tmp_path / "elsewhere", "labels": None}
    params = streets().model_copy(update={"data": type(data).model_validate(data.model_dump() | rome)})
    with pytest.raises(InputError, match=r"data\.test\.images: .*/elsewhere is not below data\.root"):
        TABLES[3](params)


def test_figure_5_has_the_printed_values_with_the_printed_settings_and_scales_them_with_others() -> None:
    def alphas(params: Params) -> list[float]:
        return [row.at for row in FIGURES[5](params).rows if row.curve == "alpha"]

    assert alphas(preset("paper")) == [0.001, 0.002, 0.003]
    assert alphas(streets()) == [0.5, 1.0, 1.5]
    assert [row.at for row in FIGURES[5](streets()).rows if row.curve == "gamma"] == [0, 1, 2, 3, 4, 5]


def test_figure_6_goes_on_from_epoch_to_epoch_with_the_literal_threshold() -> None:
    rows = settings(FIGURES[6](streets()))
    model, values = rows["lambda_neg = 0.2, epoch 10"]
    assert model == "runs/teach/r10"
    params = load_params(ROOT / "params.yaml", values)
    assert [str(each.model) for each in params.rounds.values()] == [
        ALIGN,
        *(f"runs/teach/r{n:02}" for n in range(1, 10)),
    ]
    assert (params.teach.epochs, params.dump.negative_threshold, params.dump.negative_cap) == (1, 0.2, False)
    assert rows["lambda_neg = 0.2, epoch 0"] == (ALIGN, {})
    assert len(rows) == 5 * 11


def measured(table: Table, seeds: list[int]) -> tuple[Plan, State]:
    """Made-up results: 10 for the first row, 11 for the second, and one more for each seed."""
    found = [setting for row in table.rows for setting in row.settings]
    unique = [setting for place, setting in enumerate(found) if setting not in found[:place]]
    cells = {(place, seed): Cell(f"{place}-{seed}", {}) for place in range(len(unique)) for seed in seeds}
    metrics = {
        cell.name: {
            "miou": 10.0 + place + seed,
            "iou": {"road": 50.0 + place, "tunnel": 5.0, "wall": None},
            "protocols": {"13": 20.0},
            "evidence": None,
        }
        for (place, seed), cell in cells.items()
    }
    return Plan(list(cells.values()), cells, unique), State(metrics, {})


def shown(number: int, seeds: list[int], params: Params | None = None) -> list[list[str]]:
    table = TABLES[number](params or streets())
    found = lines(table, *measured(table, seeds), seeds)
    assert picture(table, found).startswith(b"\x89PNG")
    text = comparison(table, found, seeds)
    return [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]


def test_ours_stands_below_the_printed_row_in_the_same_columns() -> None:
    rows = [[cell.strip() for cell in row] for row in shown(1, [0, 1])]
    header = rows[0]
    at = next(place for place, row in enumerate(rows) if row[1:3] == ["ATP (w/o TP)", "paper"])
    paper, here = (dict(zip(header, row, strict=True)) for row in rows[at : at + 2])
    assert (paper["figures of"], here["figures of"]) == ("paper", "here")
    assert (paper["road"], paper["mIoU"], paper["tunnel"]) == ("90.1", "45.0", "")
    # The second row computed, after URMA's.
    assert (here["road"], here["wall"], here["tunnel"]) == ("51.0", "", "5.0")
    assert here["mIoU"] == "11.5 ± 0.7"
    assert here["seeds 0 1"] == "11.0 12.0"
    alone = [row for row in rows if row[1] == "SFDA [57]"]
    assert [row[2] for row in alone] == ["paper"]


def test_cells_of_a_row_stand_below_the_printed_cells() -> None:
    rows = [[cell.strip() for cell in row] for row in shown(9, [0])]
    assert rows[2:] == [
        ["mIoU", "paper", "44.0", "44.2", "45.0", "44.1", "44.0", ""],
        ["mIoU", "here", "10.0", "11.0", "12.0", "13.0", "14.0", ""],
    ]


def test_ticks_stand_in_both_lines_of_table_5() -> None:
    rows = [[cell.strip() for cell in row] for row in shown(5, [0])]
    both = [row for row in rows if row[0] == "(b)"]
    assert [row[2:8] for row in both] == [["x", "x", "-", "-", "-", "-"], ["x", "x", "", "", "", ""]]


def test_the_13_classes_of_table_2_are_a_set_of_the_data() -> None:
    assert [name for name, _ in TABLES[2](streets()).columns] == ["mIoU"]
    assert [name for name, _ in TABLES[2](preset("paper-synthia")).columns] == ["mIoU", "mIoU*"]


def test_other_targets_of_table_3_come_after_the_cities() -> None:
    rows = [[cell.strip() for cell in row] for row in shown(3, [0])]
    assert [row[0] for row in rows[2:]][-4:] == [HERE] * 4
    assert {row[3] for row in rows[-4:]} == {"here"}
    assert [row[1] for row in rows[-4:]] == ["source-free", "ours", "ours", "ours"]


def test_what_is_measured_is_told_without_computing_it() -> None:
    text = rows_and_settings(TABLES[6](streets()))
    assert "| 0.5 | paper | 49.8 | 50.4 | 52.6 | 51.9 |" in text
    assert "- 0.3, CutMix [113]: runs/propagate with split.easy_ratio=0.3, propagate.mix=cut_mix" in text
    assert "- gamma = 5: runs/align with align.gamma=5.0" in rows_and_settings(FIGURES[5](streets()))
