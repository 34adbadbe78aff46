"""Every dvc.yaml: source-freeness and tracking are facts of the graph."""

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from atp.params import Params

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
        outs = [out if isinstance(out, str) else next(iter(out)) for out in stage["outs"]]
        assert outs in ([f"runs/{name}"], [f"runs/{name}/${{key}}"])
        assert name in sections or name == "report"


@pytest.mark.parametrize("dag", [*DAGS.values(), CELL], ids=[*DAGS, "cell"])
def test_a_stage_depends_on_the_code_that_it_imports(dag: Dag) -> None:
    """All of the package that a stage's modules import, followed through its own stage modules."""
    for stage in dag.stages:
        if stage == "register":
            continue
        deps, seen, left = dag.code(stage), set(), [stage]
        while left:
            module = left.pop()
            if module in seen:
                continue
            seen.add(module)
            for imported in imports(ROOT / "atp/stages" / f"{module}.py"):
                if imported.startswith("atp.stages.") and imported != "atp.runner.stage":
                    left.append(imported.split(".")[2])
                folder = "/".join(imported.split(".")[:2])
                if (ROOT / folder).is_dir() and folder != "atp/stages":
                    assert folder in deps, f"{stage} imports {imported} through stages/{module}.py"
        if stage not in ("evaluate", "measure", "report"):
            assert {f"atp/stages/{module}.py" for module in seen} <= deps


def test_a_training_stage_depends_on_what_judges_its_model(dag: Dag) -> None:
    """Through ``atp.runner.stage``, on which no stage depends as a whole."""
    judged = [name for name, stage in dag.stages.items() if "evidence" in stage["params"]]
    assert judged[-2:] == ["teach", "propagate"]
    assert set(judged[:-2]) == {"align", "distill"} & set(dag.stages)
    for stage in judged:
        assert {"atp/evaluation/evidence", "atp/evaluation/evidence/guard.py"} <= dag.code(stage)


@pytest.mark.parametrize(("folder", "first"), [("", "align"), ("black_box", "distill")])
def test_evidence_is_a_metric(folder: str, first: str) -> None:
    metrics = YAML(typ="safe").load(ROOT / folder / "dvc.yaml")["metrics"]
    assert {f"{run}/evidence.json" for run in (f"runs/{first}", "${split.model}", "runs/propagate")} <= set(metrics)


def test_code_deps_exist(dag: Dag) -> None:
    for stage in dag.stages:
        assert all((ROOT / dep).exists() for dep in dag.code(stage)), stage


def imports(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return [name for name in names if name.startswith("atp.")]


def test_settings_that_change_no_result_are_not_tracked(dag: Dag) -> None:
    assert not any("runtime" in param for stage in dag.stages.values() for param in stage["params"])


LAYERS = (
    ("flows", "cli"),
    ("tables",),
    ("selection",),
    ("stages",),
    ("registry", "report", "tracking"),
    ("rivals",),
    ("training", "pseudo_labels", "black_box", "evidence"),
    ("losses", "models", "data"),
)


def test_losses_import_torch_alone() -> None:
    for path in (ROOT / "atp/losses").glob("*.py"):
        assert all(name.startswith("atp.losses") for name in imports(path)), path


@pytest.mark.parametrize("layer", range(1, len(LAYERS)))
def test_imports_point_one_way(layer: int) -> None:
    above = {name for names in LAYERS[:layer] for name in names}
    for name in LAYERS[layer]:
        folder = ROOT / "atp" / name
        for path in [*folder.rglob("*.py"), folder.with_suffix(".py")]:
            if path.is_file():
                assert not {imported.split(".")[1] for imported in imports(path)} & above, path
