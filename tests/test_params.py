"""params.yaml: what is wrong is told in one line, in the file's own words."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from atp.data.reading import Reading
from atp.data.settings import DataSettings, MaybeLabelled, read_classes
from atp.errors import InputError
from atp.method.settings import AdaptSettings
from atp.params import Params, load_params
from atp.settings import read_yaml

ROOT = Path(__file__).parents[1]


@pytest.fixture
def tree() -> Any:
    """The repository's own params.yaml, to be spoiled."""
    return YAML(typ="safe").load(ROOT / "params.yaml")


def complaint(tree: Any, tmp_path: Path) -> str:
    (line,) = all_complaints(tree, tmp_path)
    return line


def all_complaints(tree: Any, tmp_path: Path) -> list[str]:
    YAML(typ="safe").dump(tree, tmp_path / "params.yaml")
    with pytest.raises(InputError) as caught:
        load_params(tmp_path / "params.yaml")
    return [line.removeprefix(f"{tmp_path}/") for line in caught.value.lines]


def test_the_repository_s_own_are_valid() -> None:
    params = load_params(ROOT / "params.yaml")
    assert params.data.size == (160, 80)
    assert params.data.source.images == Path("data/source/images")


def test_unknown_key_names_the_near_one(tree: Any, tmp_path: Path) -> None:
    tree["align"]["epoch"] = 3
    assert complaint(tree, tmp_path) == "params.yaml: align.epoch: unknown key; is it epochs?"


def test_unknown_key_of_a_round(tree: Any, tmp_path: Path) -> None:
    tree["rounds"]["r01"]["modle"] = "runs/align"
    assert complaint(tree, tmp_path) == "params.yaml: rounds.r01.modle: unknown key; is it model?"


def test_unknown_section(tree: Any, tmp_path: Path) -> None:
    tree["alien"] = {}
    assert complaint(tree, tmp_path) == "params.yaml: alien: unknown key; is it align?"


def test_missing_key(tree: Any, tmp_path: Path) -> None:
    del tree["teach"]["lr"]
    assert complaint(tree, tmp_path) == "params.yaml: teach.lr: missing; add it"


@pytest.mark.parametrize("section", ["source", "align", "teach", "propagate"])
def test_a_training_has_either_epochs_or_steps(tree: Any, tmp_path: Path, section: str) -> None:
    tree[section]["steps"] = 100
    both = f"params.yaml: {section}: has both epochs and steps; remove one, or set it to null"
    assert complaint(tree, tmp_path) == both
    for length in ({"epochs": None}, {}):
        tree[section] = {key: value for key, value in tree[section].items() if key != "epochs"} | length
        tree[section]["steps"] = 100
        YAML(typ="safe").dump(tree, tmp_path / "params.yaml")
        assert getattr(load_params(tmp_path / "params.yaml"), section).steps == 100
        tree[section]["steps"] = None
        neither = f"params.yaml: {section}: has neither epochs nor steps; add one of them"
        assert complaint(tree, tmp_path) == neither


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("align", "epochs", "3"),
        ("align", "epochs", 2.5),
        ("align", "steps", 2.5),
        ("align", "steps", 0),
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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epoch": 3}, "params.yaml: align.baseline.epoch: unknown key; is it epochs?"),
        ({"lr_factor": "fast"}, "params.yaml: align.baseline.lr_factor: must be a number, not 'fast'"),
    ],
)
def test_settings_of_a_baseline_are_checked_with_the_rest(
    tree: Any, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    tree["align"] |= {"method": "baselines/tent", "baseline": settings}
    assert complaint(tree, tmp_path) == message


@pytest.mark.parametrize("key", ["alias", "champion"])
@pytest.mark.parametrize("alias", ["latest", "Latest", "v12", "two words", ""])
def test_aliases_that_mlflow_does_not_take(tree: Any, tmp_path: Path, key: str, alias: str) -> None:
    tree["register"][key] = alias
    assert complaint(tree, tmp_path).startswith(f"params.yaml: register: alias {alias!r} is not a word")


def test_one_alias_for_two_things(tree: Any, tmp_path: Path) -> None:
    tree["register"]["champion"] = "Candidate"
    assert "alias and champion are both candidate" in complaint(tree, tmp_path)


def test_integer_round_keys_which_dvc_would_drop(tree: Any, tmp_path: Path) -> None:
    tree["rounds"] = {1: {"model": "runs/align"}}
    assert complaint(tree, tmp_path) == (
        "params.yaml: rounds.1: DVC silently drops keys that are not words; rename it to r01"
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
    alike = "params.yaml: align.lr: must be above 0, not 0 (2 alike, also teach.lr)"
    assert complaint(tree, tmp_path) == alike
    tree["dump"]["scales"] = 2
    tree["rounds"] = {1: {"model": "runs/align"}}
    assert all_complaints(tree, tmp_path) == [
        "params.yaml: rounds.1: DVC silently drops keys that are not words; rename it to r01",
        "params.yaml: align.lr: must be above 0, not 0 (2 alike, also teach.lr)",
        "params.yaml: dump.scales: must be a list in brackets, not 2",
    ]


def test_what_does_not_fit_together_is_told_at_once(tree: Any, tmp_path: Path) -> None:
    tree["source"]["checkpoint"] = "model.pth"
    tree["split"]["model"] = "runs/teach/r07"
    assert [line.partition(";")[0] for line in all_complaints(tree, tmp_path)] == [
        "params.yaml: source.checkpoint model.pth is not below data.source.root data/source",
        "params.yaml: split.model is runs/teach/r07",
    ]


@pytest.mark.parametrize("text", ["160x80", " 160 X 80"])
def test_sizes_as_on_the_command_line(tree: Any, tmp_path: Path, text: str) -> None:
    tree["data"] |= {"size": text, "crop": text, "source": {"root": "data/source", "size": text}}
    YAML(typ="safe").dump(tree, tmp_path / "params.yaml")
    data = load_params(tmp_path / "params.yaml").data
    assert data.size == data.crop == data.source.size == (160, 80)
    tree["data"]["size"] = "160"
    assert complaint(tree, tmp_path) == (
        "params.yaml: data.size: must be [width, height] in pixels, such as [160, 80], not '160'"
    )


def test_classes_by_name_alone(tree: Any, tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text("- road\n- car\n- {name: sky, color: [1, 2, 3]}\n")
    space = read_classes(path)
    assert space.names == ("road", "car", "sky")
    # Black is for pixels without a label.
    assert space.colors == ((128, 0, 0), (0, 128, 0), (1, 2, 3))
    tree["data"]["classes"] = ["road", "car", {"name": "sky", "color": [1, 2, 3]}]
    YAML(typ="safe").dump(tree, tmp_path / "params.yaml")
    assert load_params(tmp_path / "params.yaml").data.label_space() == space
    tree["data"]["classes"] = ["road", 3]
    assert complaint(tree, tmp_path).startswith("params.yaml: data.classes: class 1: must be a section with entries")


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


def data_section(classes: object) -> DataSettings:
    return DataSettings.model_validate(
        {"source": {"root": "s"}, "target": {"images": "t"}, "test": {"images": "e"}, "classes": classes}
    )


def test_validation_images_are_optional_and_held_out_as_test_images_are() -> None:
    section = data_section("c")
    assert section.validation is None
    assert section.held_out == (section.test,)
    validation = MaybeLabelled(images=Path("v"))
    assert section.model_copy(update={"validation": validation}).held_out == (section.test, validation)


def test_label_space_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text("- {name: road, color: [1, 2, 3]}\n- {name: sky, color: [4, 5, 6]}\n")
    space = data_section(str(path)).label_space()
    assert space.names == ("road", "sky")
    assert space.colors[1] == (4, 5, 6)


def test_label_space_with_a_name_twice() -> None:
    section = data_section([{"name": "road", "color": [0, 0, 0]}, {"name": "road", "color": [1, 1, 1]}])
    with pytest.raises(InputError, match="class name 'road' appears twice"):
        section.label_space()


def test_label_space_with_a_wrong_colour(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text("- {name: road, color: [1, 2, 300]}\n")
    with pytest.raises(InputError, match=r"classes\.yaml: class 0: color\.2: must be at most 255, not 300"):
        data_section(str(path)).label_space()


def test_a_method_that_does_not_exist(tree: Any, tmp_path: Path) -> None:
    tree["align"]["method"] = "tnet"
    assert complaint(tree, tmp_path) == "params.yaml: align: method tnet: no such method; is it baselines/tent?"


def test_a_baseline_s_settings_without_a_baseline(tree: Any, tmp_path: Path) -> None:
    tree["align"]["baseline"] = {"balance": 0.1}
    assert "align: baseline: only for a baseline's settings, but method is method/align" in complaint(tree, tmp_path)


def test_protocols_are_classes_by_name() -> None:
    section = data_section([{"name": name, "color": [0, 0, 0]} for name in ("sky", "road", "car")])
    assert section.protocol_ids() == {}
    protocols = section.model_copy(update={"protocols": {"small": ("car", "sky")}})
    assert protocols.protocol_ids() == {"small": (2, 0)}
    wrong = section.model_copy(update={"protocols": {"small": ("car", "raod")}})
    with pytest.raises(InputError, match=r"params\.yaml: data\.protocols\.small: raod: no such class; is it road\?"):
        wrong.protocol_ids()


def test_windows_must_fit_into_the_images(tree: Any, tmp_path: Path) -> None:
    params = load_params(ROOT / "params.yaml", {"data.window": [96, 80]})
    assert params.data.reading == Reading((160, 80), (96, 80))
    assert params.adapt_settings().window == (96, 80)
    tree["data"]["window"] = [96, 81]
    too_small = "size 160x80: smaller than the windows of 96x81; read it larger, or predict it as a whole"
    assert complaint(tree, tmp_path) == f"params.yaml: data: window: {too_small}"
    with pytest.raises(InputError) as caught:
        AdaptSettings(size=(160, 80), window=(96, 81))
    assert str(caught.value) == f"AdaptSettings: window: {too_small}"


def test_source_images_may_have_a_size_of_their_own(tree: Any, tmp_path: Path) -> None:
    yaml = YAML(typ="safe")
    yaml.dump(tree, tmp_path / "params.yaml")
    assert load_params(tmp_path / "params.yaml").data.source_size == (160, 80)
    tree["data"]["source"]["size"] = [128, 72]
    yaml.dump(tree, tmp_path / "params.yaml")
    data = load_params(tmp_path / "params.yaml").data
    assert (data.source_size, data.size) == ((128, 72), (160, 80))


# The class map


def mapped(tree: Any, tmp_path: Path, class_map: object) -> Params:
    tree["data"]["classes"] = [{"name": name, "color": [0, 0, 0]} for name in ("sky", "road", "car")]
    tree["data"]["class_map"] = class_map
    tree["source"]["checkpoint"] = "data/source/model.pth"
    YAML(typ="safe").dump(tree, tmp_path / "params.yaml")
    return load_params(tmp_path / "params.yaml")


def test_many_classes_become_few_and_none(tree: Any, tmp_path: Path) -> None:
    pairs = [{"road": "road"}, {"bus": "car"}, {"sky": "sky"}, {"rider": "ignore"}, {"lane": "road"}]
    assert mapped(tree, tmp_path, pairs).data.mapped_ids() == (1, 2, 0, 255, 1)
    assert mapped(tree, tmp_path, None).data.mapped_ids() is None


def test_a_class_map_can_be_a_file(tree: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path("data/source/map.yaml")
    data = mapped(tree, tmp_path, str(file)).data
    with pytest.raises(InputError, match=r"data/source/map.yaml: no such file"):
        data.mapped_ids()
    file.parent.mkdir(parents=True)
    file.write_text("- heaven: sky\n- street: road\n- car: car\n- van: car\n")
    assert data.mapped_ids() == (0, 1, 2, 2)
    for text in ("- sky\n", "- heaven: 0\n", "heaven: sky\n", "- {heaven: sky, street: road}\n"):
        file.write_text(text)
        with pytest.raises(InputError, match=r"map.yaml: must be a list with a line for each class of the source"):
            data.mapped_ids()
    with pytest.raises(InputError, match=r"data.class_map other/map.yaml is not below data.source.root"):
        mapped(tree, tmp_path, "other/map.yaml")


@pytest.mark.parametrize(
    ("class_map", "message"),
    [
        ([{"a": "sky"}, {"b": "rode"}, {"c": "car"}], "b: rode: no such class in data.classes; is it road?"),
        ([{"a": "sky"}, {"b": "xyz"}, {"c": "car"}], "choose from sky, road, car, and ignore"),
        (
            [{"a": "sky"}, {"b": "road"}, {"c": "ignore"}],
            "no class of the source model maps to car, which would never be",
        ),
        ([{"a": "sky"}, {"b": "road"}, *[{"c": "car"}] * 254], "the source model has 256 classes"),
    ],
)
def test_class_maps_that_do_not_fit(tree: Any, tmp_path: Path, class_map: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        mapped(tree, tmp_path, class_map).data.mapped_ids()
    assert str(caught.value).startswith("params.yaml: data.class_map: ")
    assert message in str(caught.value)


def test_a_class_named_as_what_means_none(tree: Any, tmp_path: Path) -> None:
    data = mapped(tree, tmp_path, [{"a": "sky"}, {"b": "road"}, {"c": "car"}]).data
    entry = data.classes[0].model_copy(update={"name": "ignore"})  # type: ignore[union-attr]
    with pytest.raises(InputError, match=r"ignore is a class in data.classes, but means no class here; rename"):
        data.model_copy(update={"classes": (*data.classes, entry)}).mapped_ids()  # type: ignore[misc]


@pytest.mark.parametrize(
    "class_map", [3, True, ["sky"], {"sky": "sky"}, [{1: "road"}], [{"road": 3}], [{"road": None}]]
)
def test_class_maps_of_the_wrong_type(tree: Any, tmp_path: Path, class_map: object) -> None:
    with pytest.raises(InputError, match=r"data.class_map: must be a list with a line for each class of the source"):
        mapped(tree, tmp_path, class_map)


def test_a_class_map_is_for_a_given_model(tree: Any, tmp_path: Path) -> None:
    tree["data"]["class_map"] = [{"a": "sky"}]
    assert complaint(tree, tmp_path) == (
        "params.yaml: data.class_map is only for a given model; set source.checkpoint, or leave it out"
    )
    tree["data"]["class_map"] = None
    tree["model"]["class_map"] = [0, 1]
    assert complaint(tree, tmp_path) == "params.yaml: model.class_map is computed by ATP; set data.class_map instead"


@pytest.mark.parametrize(("text", "what"), [("- \x00\n", "unacceptable character"), ("9" * 6000, "Exceeds the limit")])
def test_what_yaml_refuses_without_a_line(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "classes.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"classes\.yaml: not YAML: {what}"):
        read_yaml(tmp_path / "classes.yaml")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("- road\n" * 2**18, "larger than 1 MiB"),
        ("- [" + "x," * 20_000 + "x]\n", "stands for more than 20000 values"),
        ("- &a0 [x, x]\n" + "".join(f"- &a{n + 1} [*a{n}, *a{n}]\n" for n in range(60)), "stands for more than 20000"),
        ("- &a [*a]\n", "stands for more than 20000 values"),
        ("[" * 100_000, "nested too deeply"),
    ],
    ids=["large", "long", "aliases", "itself", "deep"],
)
def test_files_that_expand_without_end_are_refused(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "classes.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"classes\.yaml: {what}.*is it the right file\?"):
        read_yaml(tmp_path / "classes.yaml")
