"""A grid: names, combinations, and one line for what is wrong before anything is queued."""

import shutil
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from atp.errors import InputError
from atp.params import load_params
from atp.selection.grid import make_cells, override, parse_axis
from tests.clone import ROOT

PARAMS = ROOT / "params.yaml"


def test_every_combination_has_a_readable_name_of_its_own() -> None:
    cells = make_cells(["align.diversity=0.1,1", "teach.lr=0.01,0.02"], "0,1", PARAMS)
    assert len(cells) == len({cell.name for cell in cells}) == 8
    assert cells[0].values == {"align.diversity": 0.1, "teach.lr": 0.01, "training.seed": 0}
    assert cells[0].name.startswith("diversity=0.1_lr=0.01_seed=0-")
    # Two of a name are told apart.
    assert (
        "teach.lr=0.01_propagate.lr=0.02"
        in make_cells(["teach.lr=0.01,0.3", "propagate.lr=0.02,0.1"], "", PARAMS)[0].name
    )


def test_names_of_a_pipeline_in_a_folder_begin_with_it() -> None:
    assert make_cells(["teach.lr=0.01"], "", PARAMS, pipeline="black_box")[0].name.startswith("black_box-lr=0.01-")


def test_a_name_means_one_result(tmp_path: Path) -> None:
    (cell,) = make_cells(["teach.lr=0.01"], "", PARAMS)
    other = Path(shutil.copy2(PARAMS, tmp_path))
    other.write_text(PARAMS.read_text().replace("gamma: 3.0 ", "gamma: 2.0 "))
    assert make_cells(["teach.lr=0.01"], "", other)[0].name != cell.name
    assert make_cells(["teach.lr=0.01"], "", PARAMS, "a changed line of code")[0].name != cell.name
    # How fast it is computed changes no result.
    other.write_text(PARAMS.read_text().replace("save_every_s: 30", "save_every_s: 7"))
    assert make_cells(["teach.lr=0.01"], "", other)[0].name == cell.name


@pytest.mark.parametrize(
    ("axis", "said"),
    [
        ("teach.lr=0.01,fast", "teach.lr=fast: "),
        ("teach.lr=-1", "teach.lr"),
        ("teach.rl=0.01", "unknown key"),
        ("tech.lr=0.01", "the parameters have no tech"),
        ("teach.lr", "must be SECTION.NAME=VALUE"),
        ("teach.lr=", "no value; give"),
        ("dump.scales=[1.0", "not YAML"),
        ("teach.lr=0.1,0.1", "0.1 is repeated"),
        ("runtime.threads=1,2", "changes no result"),
        ("register.name=a,b", "leave it out"),
        ("teach.augmentation={flip: false}", "one by one"),
        ("propagate.ema=null", "hand_on is ema but ema is null"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(axis: str, said: str) -> None:
    with pytest.raises(InputError, match="--grid") as caught:
        make_cells([axis], "", PARAMS)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_axis_is_given_once() -> None:
    with pytest.raises(InputError, match="given twice"):
        make_cells(["training.seed=0,1"], "0,1", PARAMS)


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        ("dump.scales=[1.0],[1.0,1.25]", [[1.0], [1.0, 1.25]]),
        ("teach.ema=null,0.9", [None, 0.9]),
        ("align.batchnorm=train,eval", ["train", "eval"]),
        ("teach.class_mix=true", [True]),
        # A word that Hydra would take for a number, and an entry that the file does not have.
        ("model.weights='1e3'", ["1e3"]),
        ("evaluate.flip=true", [True]),
    ],
)
def test_values_reach_the_file_as_they_were_given(axis: str, expected: list[object], tmp_path: Path) -> None:
    name, values = parse_axis(axis)
    assert values == expected
    path = Path(shutil.copy2(PARAMS, tmp_path))
    for value in values:
        apply_overrides(path, [override(name, value)])
        if name != "model.weights":
            load_params(path)
        section, _, entry = name.partition(".")
        assert YAML(typ="safe", pure=True).load(path)[section][entry] == value
