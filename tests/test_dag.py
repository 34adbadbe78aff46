"""Every dvc.yaml: source-freeness and tracking are facts of the graph."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
from dvc.utils.serialize import load_py
from ruamel.yaml import YAML

from atp.code import decisive
from atp.method.settings import align_methods, mixes, module_named
from atp.params import Params
from atp.settings import Section

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Dag:
    """A pipeline.

    Attributes:
        folder: of its dvc.yaml.
        stages: by name; of a foreach, what it does.
        first: reads what there is of the source.
    """

    folder: Path
    stages: dict[str, Any]
    first: str

    @property
    def adaptation(self) -> list[str]:
        """The stages that must see target images alone, besides results."""
        return [name for name in self.stages if name not in (self.first, "evaluate", "report", "register")]

    def data(self, stage: str) -> list[str]:
        """What of the data a stage reads."""
        deps = self.stages[stage]["deps"]
        return [dep for dep in deps if "${data" in dep or dep.startswith(("data", "../data", "box"))]

    def code(self, stage: str) -> set[str]:
        """Which of our code it depends on, from the root."""
        folder = self.folder / self.stages[stage].get("wdir", "")
        paths = [(folder / dep).resolve() for dep in self.stages[stage]["deps"] if "$" not in dep]
        return {str(path.relative_to(ROOT)) for path in paths if path.is_relative_to(ROOT / "atp")}


def read(folder: str, first: str) -> Dag:
    stages = YAML(typ="safe").load(ROOT / folder / "dvc.yaml")["stages"]
    return Dag(ROOT / folder, {name: stage.get("do", stage) for name, stage in stages.items()}, first)


DAGS = {"white box": read("", "source"), "black box": read("black_box", "query")}


CELL = read("paper", "measure")
"""What a cell of a table adds to the pipeline, in the root as its working folder."""


@pytest.fixture(params=DAGS)
def dag(request: pytest.FixtureRequest) -> Dag:
    return DAGS[request.param]


def test_the_pipelines_are_told_apart_by_their_first_stages() -> None:
    white, black = (list(dag.stages) for dag in DAGS.values())
    assert white[:2] == ["source", "align"]
    assert black[:2] == ["query", "distill"]
    assert white[2:] == black[2:]


def test_adaptation_sees_target_images_alone(dag: Dag) -> None:
    assert len(dag.adaptation) == 5
    for stage in dag.adaptation:
        assert dag.data(stage) == ["${data.target.images}"], stage


def test_only_the_first_stage_reads_the_source(dag: Dag) -> None:
    readers = [name for name in dag.stages if any("data.source" in dep for dep in dag.data(name))]
    assert readers == [name for name in dag.stages if name == dag.first]
    assert "${data.source.root}" in DAGS["black box" if dag.first == "query" else "white box"].data(dag.first)


@pytest.mark.parametrize("folder", ["", "black_box", "paper"])
def test_no_stage_names_the_validation_images(folder: str) -> None:
    """A study has them measured in the test images' place; ``evaluate`` reads them with all data, after adaptation."""
    assert "validation" not in (ROOT / folder / "dvc.yaml").read_text()


def test_only_evaluation_and_what_follows_reads_all_data(dag: Dag) -> None:
    readers = [name for name, stage in dag.stages.items() if "${data.root}" in stage["deps"]]
    assert readers == ["evaluate", "report"]
    labels = [name for name in dag.stages if any("labels" in dep for dep in dag.data(name))]
    assert not labels


def test_a_cell_reads_test_images_and_one_model() -> None:
    assert CELL.data("measure") == ["${data.test.images}", "${data.test.labels}"]
    assert [dep for dep in CELL.stages["measure"]["deps"] if "cell" in dep] == ["${cell.model}"]
    readers = [name for dag in DAGS.values() for name, stage in dag.stages.items() if "measure" in str(stage["deps"])]
    assert not readers


def test_a_white_box_answers_as_a_box_does_about_images_without_their_labels() -> None:
    assert CELL.data("answer") == ["${data.target.images}", "${data.test.images}"]
    assert [dep for dep in CELL.stages["answer"]["deps"] if dep.startswith("runs")] == ["runs/source"]


def test_no_stage_of_the_adaptation_depends_on_an_evaluation(dag: Dag) -> None:
    for stage in dag.adaptation:
        assert not any("evaluate" in dep or "report" in dep for dep in dag.stages[stage]["deps"])


def test_answers_about_the_test_images_are_for_the_evaluation_alone() -> None:
    dag = DAGS["black box"]
    readers = {name: dep for name, stage in dag.stages.items() for dep in stage["deps"] if dep.startswith("runs/query")}
    assert {name for name, dep in readers.items() if dep != "runs/query/target"} == {"evaluate", "report", "register"}
    assert readers["distill"] == "runs/query/target"


def test_stage_module_section_and_folder_share_a_name(dag: Dag) -> None:
    sections = {field.alias or name for name, field in Params.model_fields.items()}
    for name, stage in dag.stages.items():
        assert stage["cmd"].split()[:4] == ["python", "-m", "atp.stages", name]
        assert (ROOT / "atp/stages" / f"{name}.py").is_file()
        outs = [out if isinstance(out, str) else next(iter(out)) for out in stage.get("outs", stage.get("plots"))]
        assert outs in ([f"runs/{name}"], [f"runs/{name}/${{key}}"])
        assert name in sections or name == "report"


every_dag = pytest.mark.parametrize("dag", [*DAGS.values(), CELL], ids=[*DAGS, "cell"])


@every_dag
def test_a_stage_depends_on_exactly_the_code_that_decides_its_result(dag: Dag) -> None:
    for stage in dag.stages:
        if stage in ("report", "register"):
            continue
        expected = {str(path.relative_to(ROOT)) for path in decisive(f"atp.stages.{stage}")}
        if stage == "align":
            expected = align_code()
            assert "${align.method}" in " ".join(dag.stages[stage]["deps"]), "and on the method that is chosen"
        if stage == "propagate":
            variants = decisive("atp.stages.propagate", *(f"atp.mixing.{mix}" for mix in mixes()))
            expected = {name for path in variants if "mixing/" not in (name := str(path.relative_to(ROOT)))}
            assert "${propagate.mix}" in " ".join(dag.stages[stage]["deps"]), "and on the variant that is chosen"
        assert dag.code(stage) == expected, stage


def align_code() -> set[str]:
    """What the methods in align's place need, but for the methods themselves: DVC depends on the chosen one."""
    methods = align_methods()
    needed = decisive("atp.stages.align", *map(module_named, methods))
    paths = {str(path.relative_to(ROOT)) for path in needed} - {f"atp/{method}.py" for method in methods}
    # Of that room the baselines need but this file.
    return paths - {"atp/pseudo_labels"} | {"atp/pseudo_labels/thresholds.py"}


@every_dag
def test_a_stage_depends_on_the_defaults_of_all_its_settings(dag: Dag) -> None:
    """DVC reads the defaults from the classes, of which it knows nothing else: see .dvcignore."""
    for stage, entry in dag.stages.items():
        listed = {
            (folder(file), name.partition(".")[0])
            for each in entry.get("params", [])
            if isinstance(each, dict)
            for file, names in each.items()
            for name in names
        }
        sections = [name.partition(".")[0] for name in entry.get("params", []) if isinstance(name, str)]
        if stage in ("report", "register"):
            assert not listed, "what they show and who they tell decides no result"
            continue
        used = {kind for name in sections if name in SECTIONS for kind in classes(SECTIONS[name])}
        expected = {(Path(kind.__module__.replace(".", "/")), kind.__name__) for kind in used}
        # Of the data's section DVC has what has no default, and of the network's the file that it is in.
        assert listed == {each for each in expected if each[0] not in (Path("atp/data/settings"),)} | {
            each for each in expected if each[1] == "Augmentation"
        }, stage


def folder(file: str) -> Path:
    """A settings file of dvc.yaml as the path of its module."""
    return Path(file.removeprefix("../")).with_suffix("")


SECTIONS = {
    field.alias or name: next(
        kind for kind in (*get_args(field.annotation), field.annotation) if isinstance(kind, type)
    )
    for name, field in Params.model_fields.items()
    if name != "rounds"
}


def classes(kind: type) -> set[type[Section]]:
    """A section's class, those that it inherits from, and those of the sections in it."""
    own = {each for each in kind.__mro__ if issubclass(each, Section) and each is not Section}
    nested = {
        part
        for each in own
        for field in each.model_fields.values()
        for part in (field.annotation, *get_args(field.annotation))
        if isinstance(part, type) and issubclass(part, Section)
    }
    return own | {found for part in nested for found in classes(part)}


def test_dvc_finds_every_default() -> None:
    """One that is no literal in its class would change unseen."""
    for name in (
        "source",
        "align",
        "distill",
        "dump",
        "teach",
        "split",
        "propagate",
        "evidence",
        "evaluate",
        "training",
    ):
        for kind in classes(SECTIONS[name]):
            read = load_py(str(ROOT / f"{kind.__module__.replace('.', '/')}.py"))[kind.__name__]
            for field in inspect.get_annotations(kind):
                default = kind.model_fields[field].get_default()
                if kind.model_fields[field].is_required() or isinstance(default, dict | Section):
                    continue
                assert field in read, f"{kind.__name__}.{field}"
                assert read[field] == (list(default) if isinstance(default, tuple) else default)


@pytest.mark.parametrize(("folder", "first"), [("", "align"), ("black_box", "distill")])
def test_evidence_is_a_metric(folder: str, first: str) -> None:
    metrics = YAML(typ="safe").load(ROOT / folder / "dvc.yaml")["metrics"]
    assert {f"{run}/evidence.json" for run in (f"runs/{first}", "${split.model}", "runs/propagate")} <= set(metrics)


def test_settings_that_change_no_result_are_not_tracked(dag: Dag) -> None:
    assert not any("runtime" in param for stage in dag.stages.values() for param in stage["params"])
