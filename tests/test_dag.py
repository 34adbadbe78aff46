"""dvc.yaml: source-freeness and tracking are facts of the graph."""

import ast
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from atp.config import Params

ROOT = Path(__file__).parents[1]
ADAPTATION = ("align", "dump", "teach", "split", "propagate")


@pytest.fixture(scope="module")
def dag() -> Any:
    """The stages of dvc.yaml; of a foreach, what it does."""
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    return {name: stage.get("do", stage) for name, stage in stages.items()}


@pytest.mark.parametrize("stage", ADAPTATION)
def test_adaptation_sees_target_images_alone(dag: Any, stage: str) -> None:
    data = [dep for dep in dag[stage]["deps"] if "${data" in dep or dep.startswith("data")]
    assert data == ["${data.target.images}"]


def test_only_source_reads_the_source_data(dag: Any) -> None:
    readers = [name for name, stage in dag.items() if any("data.source" in dep for dep in stage["deps"])]
    assert readers == ["source"]


def test_only_evaluation_and_what_follows_reads_all_data(dag: Any) -> None:
    readers = [name for name, stage in dag.items() if "${data.root}" in stage["deps"]]
    assert readers == ["evaluate", "report"]


def test_no_stage_of_the_adaptation_depends_on_an_evaluation(dag: Any) -> None:
    for stage in ADAPTATION:
        assert not any("evaluate" in dep or "report" in dep for dep in dag[stage]["deps"])


def test_stage_module_section_and_folder_share_a_name(dag: Any) -> None:
    sections = {field.alias or name for name, field in Params.model_fields.items()}
    for name, stage in dag.items():
        assert stage["cmd"].split()[:4] == ["python", "-m", "atp.stages", name]
        assert (ROOT / "atp/stages" / f"{name}.py").is_file()
        outs = [out if isinstance(out, str) else next(iter(out)) for out in stage["outs"]]
        assert outs in ([f"runs/{name}"], [f"runs/{name}/${{key}}"])
        assert name in sections or name == "report"


@pytest.mark.parametrize("stage", ["source", *ADAPTATION, "evaluate", "report"])
def test_a_stage_depends_on_the_code_that_it_imports(dag: Any, stage: str) -> None:
    """All of the package that a stage's modules import, followed through its own stage modules."""
    deps = {dep for dep in dag[stage]["deps"] if dep.startswith("atp/")}
    seen, left = set(), [stage]
    while left:
        module = left.pop()
        if module in seen:
            continue
        seen.add(module)
        for imported in imports(ROOT / "atp/stages" / f"{module}.py"):
            if imported.startswith("atp.stages.") and imported != "atp.stages.stage":
                left.append(imported.split(".")[2])
            folder = "/".join(imported.split(".")[:2])
            if (ROOT / folder).is_dir() and folder != "atp/stages":
                assert folder in deps, f"{stage} imports {imported} through stages/{module}.py"
    if stage not in ("evaluate", "report"):
        assert {f"atp/stages/{module}.py" for module in seen} <= deps


def imports(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return [name for name in names if name.startswith("atp.")]


def test_settings_that_change_no_result_are_not_tracked(dag: Any) -> None:
    assert not any("runtime" in param for stage in dag.values() for param in stage["params"])


LAYERS = (
    ("flows", "cli"),
    ("selection",),
    ("stages",),
    ("registry", "report", "tracking"),
    ("training", "pseudo_labels", "black_box"),
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
