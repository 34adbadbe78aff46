"""params.yaml: what is wrong is told in one line, in the file's own words."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from atp.config import DataSection, load_params
from atp.errors import InputError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def tree() -> Any:
    """The repository's own params.yaml, to be spoiled."""
    return YAML(typ="safe").load(ROOT / "params.yaml")


def complaint(tree: Any, tmp_path: Path) -> str:
    YAML(typ="safe").dump(tree, tmp_path / "params.yaml")
    with pytest.raises(InputError) as caught:
        load_params(tmp_path / "params.yaml")
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{tmp_path}/")


def test_the_repository_s_own_are_valid() -> None:
    params = load_params(ROOT / "params.yaml")
    assert params.data.size == (160, 80)
    assert params.data.source.images == Path("data/source/images")


def test_unknown_key_names_the_near_one(tree: Any, tmp_path: Path) -> None:
    tree["align"]["epoch"] = 3
    assert complaint(tree, tmp_path) == "params.yaml: align.epoch: unknown key; is it epochs?"


def test_unknown_section(tree: Any, tmp_path: Path) -> None:
    tree["alien"] = {}
    assert complaint(tree, tmp_path) == "params.yaml: alien: unknown key; is it align?"


def test_missing_key(tree: Any, tmp_path: Path) -> None:
    del tree["teach"]["lr"]
    assert complaint(tree, tmp_path) == "params.yaml: teach.lr: missing; add it"


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("align", "epochs", "3"),
        ("align", "epochs", 2.5),
        ("align", "lr", "fast"),
        ("align", "lr", True),
        ("align", "freeze_classifier", 1),
        ("dump", "keep_ratio", 65),
        ("dump", "scales", []),
        ("training", "precision", "int8"),
        ("register", "promote", "always"),
        ("register", "gain", -0.5),
        ("register", "gain", "1"),
        ("model", "backbone", "resnet34"),
        ("data", "size", [160]),
    ],
)
def test_wrong_type_or_value(tree: Any, tmp_path: Path, section: str, key: str, value: object) -> None:
    tree[section][key] = value
    assert complaint(tree, tmp_path).startswith(f"params.yaml: {section}.{key}")


@pytest.mark.parametrize("key", ["alias", "champion"])
@pytest.mark.parametrize("alias", ["latest", "Latest", "v12", "two words", ""])
def test_aliases_that_mlflow_does_not_take(tree: Any, tmp_path: Path, key: str, alias: str) -> None:
    tree["register"][key] = alias
    assert complaint(tree, tmp_path).startswith(f"params.yaml: register: alias {alias!r} is no word")


def test_one_alias_for_two_things(tree: Any, tmp_path: Path) -> None:
    tree["register"]["champion"] = "Candidate"
    assert "alias and champion are both candidate" in complaint(tree, tmp_path)


def test_integer_round_keys_which_dvc_would_drop(tree: Any, tmp_path: Path) -> None:
    tree["rounds"] = {1: {"model": "runs/align"}}
    assert complaint(tree, tmp_path) == (
        "params.yaml: rounds.1: DVC drops keys that are no words without an error; call it r01"
    )


def test_a_round_that_starts_from_nowhere(tree: Any, tmp_path: Path) -> None:
    tree["rounds"]["r02"] = {"model": "runs/teach/r03"}
    assert "rounds.r02.model is runs/teach/r03; it must be one of runs/align, runs/teach/r01" in complaint(
        tree, tmp_path
    )


def test_a_split_of_a_model_that_is_not_made(tree: Any, tmp_path: Path) -> None:
    tree["split"]["model"] = "runs/teach/r09"
    assert "split.model is runs/teach/r09" in complaint(tree, tmp_path)


def test_a_checkpoint_that_dvc_would_not_see(tree: Any, tmp_path: Path) -> None:
    tree["source"]["checkpoint"] = "/elsewhere/model.pth"
    assert "not below data.source.root" in complaint(tree, tmp_path)


def test_several_complaints_are_counted(tree: Any, tmp_path: Path) -> None:
    tree["align"]["lr"], tree["teach"]["lr"] = 0, 0
    assert complaint(tree, tmp_path).endswith("(and 1 more)")


def test_not_yaml(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("data: [")
    with pytest.raises(InputError, match=r"params\.yaml: line \d+: not YAML"):
        load_params(tmp_path / "params.yaml")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; run from the root of the project"):
        load_params(tmp_path / "params.yaml")


def test_numbers_as_dvc_reads_them(tree: Any, tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text().replace("lr: 0.002 ", "lr: 2e-3 ")
    (tmp_path / "params.yaml").write_text(text)
    assert load_params(tmp_path / "params.yaml").align.lr == 0.002


def data_section(classes: object) -> DataSection:
    return DataSection.model_validate(
        {"source": {"root": "s"}, "target": {"images": "t"}, "test": {"images": "e"}, "classes": classes}
    )


def test_label_space_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text("- {name: road, color: [1, 2, 3]}\n- {name: sky, color: [4, 5, 6]}\n")
    space = data_section(str(path)).label_space()
    assert space.names == ("road", "sky")
    assert space.colors[1] == (4, 5, 6)


def test_label_space_with_a_name_twice() -> None:
    section = data_section([{"name": "road", "color": [0, 0, 0]}, {"name": "road", "color": [1, 1, 1]}])
    with pytest.raises(InputError, match="class name 'road' stands twice"):
        section.label_space()


def test_label_space_with_a_wrong_colour(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text("- {name: road, color: [1, 2, 300]}\n")
    with pytest.raises(InputError, match=r"classes\.yaml: color\.2"):
        data_section(str(path)).label_space()


def test_a_method_that_does_not_exist(tree: Any, tmp_path: Path) -> None:
    tree["align"]["method"] = "tnet"
    assert complaint(tree, tmp_path) == "params.yaml: align: method tnet: no such method; is it tent?"


def test_a_rival_s_settings_without_a_rival(tree: Any, tmp_path: Path) -> None:
    tree["align"]["rival"] = {"balance": 0.1}
    assert "align: rival is for a rival's settings; method is atp" in complaint(tree, tmp_path)


def test_protocols_are_classes_by_name() -> None:
    section = data_section([{"name": name, "color": [0, 0, 0]} for name in ("sky", "road", "car")])
    assert section.protocol_ids() == {}
    protocols = section.model_copy(update={"protocols": {"small": ("car", "sky")}})
    assert protocols.protocol_ids() == {"small": (2, 0)}
    wrong = section.model_copy(update={"protocols": {"small": ("car", "raod")}})
    with pytest.raises(InputError, match=r"params\.yaml: data\.protocols\.small: raod: no such class; is it road\?"):
        wrong.protocol_ids()


def test_source_images_may_have_a_size_of_their_own(tree: Any, tmp_path: Path) -> None:
    yaml = YAML(typ="safe")
    yaml.dump(tree, tmp_path / "params.yaml")
    assert load_params(tmp_path / "params.yaml").data.source_size == (160, 80)
    tree["data"]["source"]["size"] = [128, 72]
    yaml.dump(tree, tmp_path / "params.yaml")
    data = load_params(tmp_path / "params.yaml").data
    assert (data.source_size, data.size) == ((128, 72), (160, 80))
